"""Tests for where motion cannot be trusted; the motion-error mask E of warp-inpaint is made of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp.errors import WrpError
from wrp.geometry.backends.cpu import absolute_difference, backend, box_sums, either, quiet, serves, tensor
from wrp.geometry.formulas import agree
from wrp.geometry.warp import Sampler, out_of_frame

# Values of images in [0, 1] may lie outside of it by this much, after interpolation in half precision.
ROUNDING = 1e-2


def forward_backward_error(flow_st: Tensor, flow_ts: Tensor, alpha: float = 0.01, beta: float = 0.5) -> Tensor:
    """Apply the forward-backward test to two flows between *neighbouring* frames (Sundaram et al., ECCV 2010).

    A pixel fails where ``|F_{s→t} + warp(F_{t→s})|² > α (|F_{s→t}|² + |warp(F_{t→s})|²) + β``, or where its point
    leaves the frame. On a composed flow of 100 px, α = 0.01 would tolerate 14 px: combine the results of the test for
    its neighbouring flows instead (:mod:`wrp.geometry.composed`).

    Args:
        flow_st: F_{s→t}, (B, 2, H, W) in pixels.
        flow_ts: F_{t→s}, (B, 2, H, W) in pixels.
        alpha: Tolerance relative to the squared motion.
        beta: Tolerance in square pixels.

    Returns:
        (B, H, W) bool, True where the motion is in error, in frame s.

    Example:
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> forward_backward_error(right, -right)
        tensor([[[False, False,  True]]])
    """
    [back] = Sampler(flow_ts).along(flow_st)
    return either(disagree(flow_st, back, alpha, beta), out_of_frame(flow_st))


def disagree(flow: Tensor, back: Tensor, alpha: float, beta: float) -> Tensor:
    """Return where a flow and the flow back differ: ``|F + B|² > α (|F|² + |B|²) + β``, or either is not finite.

    Args:
        flow: F, (B, 2, H, W) in pixels.
        back: B, the flow back at the point where F leads, (B, 2, H, W) in pixels.
        alpha: α, relative to the squared motion.
        beta: β, in square pixels.

    Returns:
        (B, H, W) bool.

    Example:
        >>> flow = torch.ones(1, 2, 1, 1)
        >>> disagree(flow, -flow, 0.01, 0.5), disagree(flow, flow, 0.01, 0.5)
        (tensor([[[False]]]), tensor([[[True]]]))
    """
    xp, flow, back = backend(flow.float(), back.float())
    with quiet(xp):
        return tensor(~agree(flow[:, 0], flow[:, 1], back[:, 0], back[:, 1], alpha, beta))


def photometric_error(frame: Tensor, warped: Tensor, window: int = 5) -> Tensor:
    """Smooth the absolute difference between a frame and another one that was warped into it.

    Args:
        frame: (B, 3, H, W) in [0, 1].
        warped: (B, 3, H, W) in [0, 1].
        window: Side of the box over which the difference is averaged, odd, in pixels: single pixels of texture and
            noise tell little about a label.

    Returns:
        Mean over the colours and the box, (B, H, W) float32 in [0, 1].

    Example:
        >>> photometric_error(torch.zeros(1, 3, 1, 2), torch.full((1, 3, 1, 2), 0.5))
        tensor([[[0.5000, 0.5000]]])
    """
    _, difference = backend(absolute_difference(frame.float(), warped.float()))
    return _mean_around(tensor(difference[:, 0] + difference[:, 1] + difference[:, 2]), window)


def photometric_error_along(frame: Tensor, image: Sampler, flow: Tensor, window: int = 5) -> Tensor:
    """Compute the :func:`photometric_error` between a frame and another one, sampled along a flow.

    Args:
        frame: I_j, (B, 3, H, W) uint8.
        image: I_a in [0, 1].
        flow: F_{j→a}, (B, 2, H, W) float32 in pixels.
        window: As for :func:`photometric_error`.

    Returns:
        (B, H, W) float32 in [0, 1].

    Example:
        >>> frame = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
        >>> photometric_error_along(frame, Sampler(torch.ones(1, 3, 4, 6)), torch.zeros(1, 2, 4, 6)).unique()
        tensor([1.])
    """
    [warped] = image.along(flow)
    return photometric_error(to_unit(frame), warped, window)


def _mean_around(total: Tensor, window: int) -> Tensor:
    """Average over the window around each pixel and over three colours, from sums over the colours (B, H, W)."""
    if serves(total):
        counts = _counts(*total.shape[-2:], window)
        return tensor(box_sums(total, window).numpy() / counts.numpy())
    return functional.avg_pool2d(total / 3, window, 1, window // 2, count_include_pad=False)


def to_unit(frames: Tensor) -> Tensor:
    """Convert frames (…, 3, H, W) to float32 in [0, 1]: uint8 is divided by 255, floating point is in [0, 1] already.

    Raises:
        WrpError: If the frames have another type, or values that :func:`check_unit` refuses.

    Example:
        >>> to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)).flatten()
        tensor([0.0000, 0.2000, 1.0000])
        >>> to_unit(torch.tensor([0.0, 0.2, 1.0]).view(3, 1, 1)).flatten()
        tensor([0.0000, 0.2000, 1.0000])
    """
    check_unit(frames)
    if frames.dtype != torch.uint8:
        return frames.to(torch.float32)
    xp, frames = backend(frames)
    return tensor(xp.divide(frames, np.float32(255))) if xp is np else frames.to(torch.float32) / 255


def check_unit(frames: Tensor, waits: bool = False) -> None:
    """Refuse frames that are neither uint8 nor floating point in [0, 1].

    Args:
        frames: (…, 3, H, W).
        waits: Whether to look at values on a GPU, too, for which it has to wait.

    Raises:
        WrpError: If the type is another one, or a value lies outside of [0, 1] by more than rounding.

    Example:
        >>> check_unit(torch.zeros(3, 2, 2, dtype=torch.int16))
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: images must be uint8, or floating point in [0, 1], got int16
    """
    if frames.dtype == torch.uint8:
        return
    got = str(frames.dtype).removeprefix("torch.")
    if not frames.is_floating_point():
        raise WrpError(f"images must be uint8, or floating point in [0, 1], got {got}")
    if not (frames.device.type == "cpu" or waits) or not frames.numel():
        return
    low, high = (float(value) for value in frames.aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise WrpError(
            f"images must be uint8, or floating point in [0, 1], got {got} from {low:.4g} to {high:.4g}: do not "
            "normalise them, the network does"
        )


@lru_cache(maxsize=4)
def _counts(height: int, width: int, window: int) -> Tensor:
    """Count the values, three for each pixel of the frame, in the window around each pixel: (1, H, W) float32."""
    return box_sums(torch.full((1, height, width), 3.0), window)
