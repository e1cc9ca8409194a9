"""Warping along optical flow.

Conventions, used everywhere in the package:

* A flow F_{s→t} is (B, 2, H, W) float32, channel 0 is x (to the right) and channel 1 is y (down), in pixels: the point
  at x in frame s is at x + F_{s→t}(x) in frame t.
* Warping samples backward: warp(z_t, F_{s→t})(x) = z_t(x + F_{s→t}(x)); what is known in t arrives in s.
* Pixel centres are at whole numbers, a frame covers [-½, W-½) × [-½, H-½). What lies outside is invalid, never clamped.
* Coordinates are float32 also under autocast: half precision loses whole pixels.
* Nothing here waits for the device: masks are returned, not tested.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp.ops.cpu import add, backend, remap_bilinear, remap_is_exact, serves, tensor
from wrp.types import IGNORE_INDEX


def coordinates(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where a flow leads.

    Args:
        flow: (B, 2, H, W) in pixels.

    Returns:
        Coordinates x + F(x), (B, 2, H, W) float32 in pixels, and the mask (B, H, W) bool of those that are in the
        frame. Coordinates outside of the mask are finite and in the frame as well, so that they can index, but
        meaningless. A flow that is not finite is out of frame: it must never become a label.
    """
    height, width = flow.shape[-2:]
    column, row = _axes(height, width, flow.device)
    xp, flow, column, row = backend(flow.float(), column, row)
    x, y = flow[:, 0] + column, flow[:, 1] + row
    valid = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    coords = xp.stack((x.clip(0, width - 1), y.clip(0, height - 1)), 1)
    # What is not a number is clipped to nothing. Looking for it is cheaper than replacing it, but a device would wait.
    if xp is torch or not np.isfinite(coords).all():
        coords = xp.nan_to_num(coords)
    return tensor(coords), tensor(valid)


def _axes(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates of the columns, (W,), and of the rows, (H, 1)."""
    column = torch.arange(width, dtype=torch.float32, device=device)
    return column, torch.arange(height, dtype=torch.float32, device=device).view(-1, 1)


def sample(values: Tensor, coords: Tensor) -> Tensor:
    """Bilinear samples of ``values`` (B, C, H, W) at ``coords`` (B, 2, h, w) in pixels: (B, C, h, w) float32.

    Coordinates are expected in the frame (see :func:`coordinates`); the outer half of a border pixel has its value.
    """
    if serves(values, coords) and remap_is_exact():
        return remap_bilinear([values], coords)[0]
    height, width = values.shape[-2:]
    scale = coords.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    with torch.autocast(values.device.type, enabled=False):
        return functional.grid_sample(
            values.float(), coords.permute(0, 2, 3, 1) * scale - 1, padding_mode="border", align_corners=True
        )


def sample_together(first: Tensor, second: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`sample` of two maps at the same coordinates in one pass."""
    if serves(first, second, coords) and remap_is_exact():
        one, other = remap_bilinear([first, second], coords)
    else:
        one, other = sample(torch.cat((first, second), 1), coords).split([first.shape[1], second.shape[1]], 1)
    return one, other


def warp(values: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Bring images, probabilities or flows that are known in t to s; z_t and F_{s→t} give what s sees of t.

    Args:
        values: z_t, (B, C, H, W).
        flow: F_{s→t}, (B, 2, H, W) in pixels.

    Returns:
        (B, C, H, W) float32, zero where invalid, and the mask (B, H, W) bool of the pixels whose point is in frame t.

    Example:
        >>> image = torch.arange(3.0).view(1, 1, 1, 3)
        >>> warp(image, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        (tensor([[[[1., 2., 0.]]]]), tensor([[[ True,  True, False]]]))
    """
    coords, valid = coordinates(flow)
    return torch.where(valid[:, None], sample(values, coords), 0.0), valid


def sample_nearest(values: Tensor, coords: Tensor) -> Tensor:
    """Nearest samples of ``values`` (B, H, W) of any dtype at ``coords`` (B, 2, h, w) in the frame: (B, h, w)."""
    width = values.shape[-1]
    if serves(values, coords):
        whole = (coords.numpy() + np.float32(0.5)).astype(np.int32)  # rounds down: coordinates are not negative
        picked = [v.reshape(-1).take(y * width + x) for v, (x, y) in zip(values.numpy(), whole, strict=True)]
        return torch.from_numpy(np.stack(picked) if len(picked) > 1 else picked[0][None])
    nearest = (coords + 0.5).long()
    index = nearest[:, 1] * width + nearest[:, 0]
    return values.flatten(1).gather(1, index.flatten(1)).view_as(index)


def warp_labels(labels: Tensor, flow: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Bring labels that are known in t to s, nearest neighbour, as ids and never as one-hots.

    Args:
        labels: y_t, (B, H, W), integer.
        flow: F_{s→t}, (B, 2, H, W) in pixels.
        ignore_index: Written where the point is outside of frame t.

    Returns:
        (B, H, W), dtype of ``labels``.
    """
    coords, valid = coordinates(flow)
    return sample_nearest(labels, coords).masked_fill(~valid, ignore_index)


def compose(flow_ji: Tensor, flow_ia: Tensor) -> tuple[Tensor, Tensor]:
    """The composed flow, F_{j→a}(x) = F_{j→i}(x) + F_{i→a}(x + F_{j→i}(x)).

    Sampling labels once through the composed flow drifts less than sampling them anew at every step.

    Args:
        flow_ji: F_{j→i}, (B, 2, H, W) in pixels.
        flow_ia: F_{i→a}, (B, 2, H, W) in pixels.

    Returns:
        F_{j→a} (B, 2, H, W) float32 and the mask (B, H, W) bool of the pixels whose point is in frame i. Outside of
        it the flow goes on as at the border of frame i, a smooth guess that keeps interpolation near the border sound.
    """
    coords, valid = coordinates(flow_ji)
    return add(flow_ji.float(), sample(flow_ia, coords)), valid
