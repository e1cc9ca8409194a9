"""Where motion cannot be trusted: the tests behind the motion-error mask E of warp-inpaint."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.backends.cpu import absolute_difference, backend, box_sums, either, quiet, serves, tensor
from wrp.geometry.formulas import agree
from wrp.geometry.warp import Sampler, out_of_frame


def forward_backward_error(flow_st: Tensor, flow_ts: Tensor, alpha: float = 0.01, beta: float = 0.5) -> Tensor:
    """Forward-backward test of two flows between *neighbouring* frames.

    A pixel fails where ``|F_{s→t} + warp(F_{t→s})|² > α (|F_{s→t}|² + |warp(F_{t→s})|²) + β``, or where its point
    leaves the frame. On a composed flow of 100 px, α = 0.01 would tolerate 14 px: carry the neighbours' test along the
    chain instead (:mod:`wrp.geometry.composed`).

    Args:
        flow_st: F_{s→t}, (B, 2, H, W) in pixels.
        flow_ts: F_{t→s}, (B, 2, H, W) in pixels.
        alpha: Tolerance relative to the squared motion.
        beta: Tolerance in square pixels.

    Returns:
        (B, H, W) bool, True where the motion is in error, in frame s.
    """
    [back] = Sampler(flow_ts).along(flow_st)
    return either(disagree(flow_st, back, alpha, beta), out_of_frame(flow_st))


def disagree(flow: Tensor, back: Tensor, alpha: float, beta: float) -> Tensor:
    """Where ``|F + B|² > α (|F|² + |B|²) + β``; F is a flow (B, 2, H, W) and B the way back met there."""
    xp, flow, back = backend(flow.float(), back.float())
    with quiet(xp):
        return tensor(~agree(flow[:, 0], flow[:, 1], back[:, 0], back[:, 1], alpha, beta))


def photometric_error(frame: Tensor, warped: Tensor, window: int = 5) -> Tensor:
    """Smoothed absolute difference between a frame and what was warped into it.

    Args:
        frame: (B, 3, H, W) in [0, 1].
        warped: (B, 3, H, W) in [0, 1].
        window: Side of the box over which the difference is averaged, odd, in pixels: single pixels of texture and
            noise say little about a label.

    Returns:
        (B, H, W) float32 in [0, 1].
    """
    _, difference = backend(absolute_difference(frame.float(), warped.float()))
    return _mean_around(tensor(difference[:, 0] + difference[:, 1] + difference[:, 2]), window)


def photometric_error_along(frame: Tensor, image: Sampler, flow: Tensor, window: int = 5) -> Tensor:
    """:func:`photometric_error` of a frame and what another one shows along a flow.

    Args:
        frame: I_j, (B, 3, H, W) uint8.
        image: I_a in [0, 1].
        flow: F_{j→a}, (B, 2, H, W) float32 in pixels.
        window: As for :func:`photometric_error`.
    """
    [warped] = image.along(flow)
    return photometric_error(to_unit(frame), warped, window)


def _mean_around(total: Tensor, window: int) -> Tensor:
    """Mean of a colour in the window around each pixel, from sums over three colours (B, H, W)."""
    if serves(total):
        counts = _counts(*total.shape[-2:], window)
        return tensor(box_sums(total, window).numpy() / counts.numpy())
    return functional.avg_pool2d(total / 3, window, 1, window // 2, count_include_pad=False)


def to_unit(frames: Tensor) -> Tensor:
    """Frames (…, 3, H, W) uint8 as float32 in [0, 1]."""
    xp, frames = backend(frames)
    return tensor(xp.divide(frames, np.float32(255))) if xp is np else frames.to(torch.float32) / 255


@lru_cache(maxsize=4)
def _counts(height: int, width: int, window: int) -> Tensor:
    """How many colours of pixels of a frame are in the window around each of them."""
    return box_sums(torch.full((1, height, width), 3.0), window)
