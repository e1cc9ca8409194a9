"""Where motion cannot be trusted: the tests behind the motion-error mask E of warp-inpaint."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp.ops.cpu import backend, box_sums, serves, tensor
from wrp.ops.warp import warp


def forward_backward_error(flow_st: Tensor, flow_ts: Tensor, alpha: float = 0.01, beta: float = 0.5) -> Tensor:
    """Forward-backward test of two flows between *neighbouring* frames.

    A pixel fails where |F_{s→t} + warp(F_{t→s})|² > α (|F_{s→t}|² + |warp(F_{t→s})|²) + β, or where its point leaves
    the frame. On a composed flow of 100 px, α = 0.01 would tolerate 14 px: carry the neighbours' test along the chain
    instead (:mod:`wrp.ops.chain`).

    Args:
        flow_st: F_{s→t}, (B, 2, H, W) in pixels.
        flow_ts: F_{t→s}, (B, 2, H, W) in pixels.
        alpha: Tolerance relative to the squared motion.
        beta: Tolerance in square pixels.

    Returns:
        (B, H, W) bool, True where the motion is in error, in frame s.
    """
    back, valid = warp(flow_ts, flow_st)
    return ~valid | disagree(flow_st, back, alpha, beta)


def disagree(flow: Tensor, back: Tensor, alpha: float, beta: float) -> Tensor:
    """Where |F + B|² > α (|F|² + |B|²) + β, (B, H, W) bool, for a flow F and the way back B met at its end."""
    _, flow, back = backend(flow.float(), back.float())
    x, y, u, v = flow[:, 0], flow[:, 1], back[:, 0], back[:, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        residual = (x + u) ** 2 + (y + v) ** 2
        magnitude = x * x + y * y + u * u + v * v
        # Written so that a residual or magnitude that is not finite fails.
        return tensor(~(residual - alpha * magnitude <= beta))


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
    xp, first, second = backend(frame.float(), warped.float())
    red, green, blue = (xp.abs(first[:, i] - second[:, i]) for i in range(3))
    difference = tensor((red + green + blue) / 3)
    if serves(difference):
        counts = _counts(*difference.shape[-2:], window)
        return tensor(box_sums(difference, window).numpy() / counts.numpy())
    return functional.avg_pool2d(difference, window, 1, window // 2, count_include_pad=False)


@lru_cache(maxsize=4)
def _counts(height: int, width: int, window: int) -> Tensor:
    """How many pixels of a frame are in the window around each of them."""
    return box_sums(torch.ones(1, height, width, dtype=torch.float32), window)


def to_unit(frames: Tensor) -> Tensor:
    """Frames (…, 3, H, W) uint8 as float32 in [0, 1]."""
    return frames.to(torch.float32) / 255
