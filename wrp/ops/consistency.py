"""Where motion cannot be trusted: the tests behind the motion-error mask E of warp-inpaint."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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
    (x, y), (u, v) = flow.float().unbind(1), back.float().unbind(1)
    residual = (x + u).square() + (y + v).square()
    magnitude = x.square() + y.square() + u.square() + v.square()
    # Written so that a residual or magnitude that is not finite fails.
    return ~(residual - alpha * magnitude <= beta)


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
    difference = (frame.float() - warped.float()).abs().mean(1, keepdim=True)
    half = window // 2
    # Rows and columns one after the other: a tenth of the additions of the square.
    rows = functional.avg_pool2d(difference, (1, window), 1, (0, half), count_include_pad=False)
    return functional.avg_pool2d(rows, (window, 1), 1, (half, 0), count_include_pad=False)[:, 0]


def to_unit(frames: Tensor) -> Tensor:
    """Frames (…, 3, H, W) uint8 as float32 in [0, 1]."""
    return frames.to(torch.float32) / 255
