"""Compiled routes on the CPU, with numba: several passes over a frame are one, and threads share its rows.

They give what the formulas in :mod:`wrp.ops.warp`, :mod:`wrp.ops.chain`, :mod:`wrp.ops.fusion` and :mod:`wrp.ops.vote`
give, up to rounding; shapes and units are theirs. :func:`wrp.ops.cpu.compiled` says whether they can do the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wrp.ops import kernels, vote_kernels
from wrp.ops.cpu import workers

# Fewer rows are not worth a thread.
_ROWS = 32


def _by_rows(kernel: Callable[..., None], height: int, *arguments: Any) -> None:
    """Run a kernel on all rows, in as many threads as torch has."""
    threads = torch.get_num_threads()
    parts = max(min(threads, height // _ROWS), 1)
    first, *others = ((height * part // parts, height * (part + 1) // parts) for part in range(parts))
    coming = [workers("wrp-rows", threads - 1).submit(kernel, *rows, *arguments) for rows in others]
    kernel(*first, *arguments)
    for other in coming:
        other.result()


def _maps(values: Tensor) -> np.ndarray:
    return values.contiguous().numpy()


def _planes(values: Tensor) -> np.ndarray:
    """Maps (…, H, W) as (…, H · W)."""
    return values.contiguous().flatten(-2).numpy()


def compose(flow_ji: Tensor, flow_ia: Tensor) -> Tensor:
    """:func:`wrp.ops.warp.compose`."""
    result = np.empty(flow_ji.shape, np.float32)
    for near, far, out in zip(_maps(flow_ji.float()), _planes(flow_ia.float()), result, strict=True):
        _by_rows(kernels.compose, near.shape[1], near, far, out)
    return torch.from_numpy(result)


def warp_labels(labels: Tensor, flow: Tensor, outside: int) -> Tensor:
    """:func:`wrp.ops.warp.warp_labels`, uint8 or bool."""
    result = np.empty(flow[:, 0].shape, np.uint8)
    for plane, way, out in zip(_planes(labels.view(torch.uint8)), _maps(flow.float()), result, strict=True):
        _by_rows(kernels.look, len(out), plane, way, np.uint8(outside), out)
    return torch.from_numpy(result).view(labels.dtype)


def push_labels(labels: Tensor, flow: Tensor) -> Tensor:
    """:func:`wrp.ops.vote.push_labels`."""
    landed = np.zeros(labels.shape, np.uint8)
    # In one thread: pixels of all rows may land on the same one.
    kernels.push(0, len(labels), _maps(labels), _maps(flow.float()), landed)
    return torch.from_numpy(landed - np.uint8(1))  # 0 becomes 255


def extend_near(
    flow: Tensor, error: Tensor, flow_ji: Tensor, flow_ij: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Flow and error of :func:`wrp.ops.chain.extend_near`, from those of the chain i → a."""
    result, failed = np.empty(flow_ji.shape, np.float32), np.empty(error.shape, np.bool_)
    maps = (_planes(flow.float()), _planes(error), _maps(flow_ji.float()), _planes(flow_ij.float()), result, failed)
    for far, wrong, near, back, out, mask in zip(*maps, strict=True):
        _by_rows(kernels.extend, len(mask), far, wrong, near, back, np.float32(alpha), np.float32(beta), out, mask)
    return torch.from_numpy(result), torch.from_numpy(failed)


def difference_along(frame: Tensor, image: Tensor, flow: Tensor) -> Tensor:
    """``|I_j - warp(I_a, F_{j→a})|`` summed over the colours, (B, H, W) float32 in [0, 3].

    Args:
        frame: I_j, (B, 3, H, W) uint8.
        image: I_a, (B, 3, H, W) in [0, 1].
        flow: F_{j→a}, (B, 2, H, W) in pixels.
    """
    result = np.empty(flow[:, 0].shape, np.float32)
    for here, there, way, out in zip(_maps(frame), _planes(image.float()), _maps(flow.float()), result, strict=True):
        _by_rows(kernels.differ, len(out), there, here, way, out)
    return torch.from_numpy(result)


def mean_around(values: Tensor, window: int, scale: float) -> Tensor:
    """Means of ``values`` (B, H, W) float32 over squares of odd side ``window``, times ``scale``."""
    result = np.empty(values.shape, np.float32)
    for value, out in zip(_maps(values), result, strict=True):
        _by_rows(kernels.mean_around, len(out), value, window // 2, np.float32(scale), out)
    return torch.from_numpy(result)


def anchor_weights(
    labels: Tensor, error: Tensor, photometric: Tensor, near: Tensor, odds: Tensor, trust: float
) -> Tensor:
    """:func:`wrp.ops.fusion.anchor_weights`.

    Args:
        labels: (S, H, W) uint8.
        error: (S, H, W) bool.
        photometric: (S, H, W) float16.
        near: (S,) float32, factor of each source.
        odds: (65536,) float32, factor of each photometric error, by its bits.
        trust: Factor where ``error`` is set.
    """
    result = np.empty(labels.shape, np.float32)
    maps = (_maps(labels), _maps(error), _maps(photometric).view(np.uint16))
    _by_rows(
        vote_kernels.weigh,
        labels.shape[1],
        *maps,
        _maps(near.expand(len(labels))),
        odds.numpy(),
        np.float32(trust),
        result,
    )
    return torch.from_numpy(result)


def blend_labels(labels: Tensor, weights: Tensor, beside: float) -> tuple[Tensor, Tensor]:
    """:func:`wrp.ops.fusion.blend_labels`; ``beside`` is the weight of the next pixel."""
    chosen, confidence = np.empty(labels.shape[1:], np.uint8), np.empty(labels.shape[1:], np.float32)
    _by_rows(vote_kernels.blend, len(chosen), _maps(labels), _maps(weights), np.float32(beside), chosen, confidence)
    return torch.from_numpy(chosen), torch.from_numpy(confidence)


def elect(labels: Tensor, ranks: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`wrp.ops.fusion.elect`.

    Args:
        labels: (S, H, W) uint8.
        ranks: (2^S,) uint8, of the weight of each set of sources.
        shares: (2^S · 2^S,) float32, by the set of sources that have a label, and the rank of the highest weight.
    """
    chosen, share = np.empty(labels.shape[1:], np.uint8), np.empty(labels.shape[1:], np.float32)
    _by_rows(vote_kernels.elect, len(chosen), _maps(labels), ranks.numpy(), shares.numpy(), chosen, share)
    return torch.from_numpy(chosen), torch.from_numpy(share)
