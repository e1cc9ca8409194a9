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

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.backends.cpu import Images, add, backend, remap_is_exact, remap_labels, serves, tensor
from wrp.geometry.formulas import LOST, inside
from wrp.structures import IGNORE_INDEX


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
    column, row = _axes(flow)
    x, y = flow[:, 0].float() + column, flow[:, 1].float() + row
    coords = torch.stack((x.clip(0, width - 1), y.clip(0, height - 1)), 1).nan_to_num()
    return coords, inside(x, y, width - 0.5, height - 0.5)


def in_frame(flow: Tensor) -> Tensor:
    """The mask of :func:`coordinates` alone."""
    height, width = flow.shape[-2:]
    _, flow, column, row = backend(flow.float(), *_axes(flow))
    return tensor(inside(flow[:, 0] + column, flow[:, 1] + row, width - 0.5, height - 0.5))


def out_of_frame(flow: Tensor) -> Tensor:
    """Where a flow (B, 2, H, W) leads out of the frame or is not finite, (B, H, W) bool."""
    return tensor(~backend(in_frame(flow))[1])


def _axes(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of the columns of a flow, (W,), and of its rows, (H, 1)."""
    height, width = flow.shape[-2:]
    column = torch.arange(width, dtype=torch.float32, device=flow.device)
    return column, torch.arange(height, dtype=torch.float32, device=flow.device).view(-1, 1)


class Sampler:
    """Maps (B, C, H, W) each that are sampled together, and more than once.

    Args:
        values: Images, probabilities or flows of one frame; not to be changed as long as samples are taken.
    """

    def __init__(self, *values: Tensor) -> None:
        self.values = values

    @cached_property
    def images(self) -> Images | None:
        """The maps for OpenCV, where it can do the work."""
        return Images(self.values) if serves(*self.values) and remap_is_exact() else None

    def along(self, flow: Tensor) -> list[Tensor]:
        """Bilinear samples (B, C, H, W) float32 of each map where a flow (B, 2, H, W) leads.

        Out of the frame they are those at its border; where the flow is not finite they mean nothing.
        """
        if serves(flow) and self.images is not None:
            return self.images.along(flow)
        sampled = sample(torch.cat([value.float() for value in self.values], 1), coordinates(flow)[0])
        return list(sampled.split([value.shape[1] for value in self.values], 1))


def sample(values: Tensor, coords: Tensor) -> Tensor:
    """Bilinear samples of ``values`` (B, C, H, W) at ``coords`` (B, 2, h, w) in pixels: (B, C, h, w) float32.

    Coordinates are expected in the frame (see :func:`coordinates`); the outer half of a border pixel has its value.
    """
    height, width = values.shape[-2:]
    scale = coords.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    grid = coords.permute(0, 2, 3, 1) * scale - 1
    with torch.autocast(coords.device.type, enabled=False):
        return functional.grid_sample(values.float(), grid, padding_mode="border", align_corners=True)


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
    valid = in_frame(flow)
    [sampled] = Sampler(values).along(flow)
    return torch.where(valid[:, None], sampled, 0.0), valid


def sample_nearest(values: Tensor, coords: Tensor) -> Tensor:
    """Nearest samples of ``values`` (B, H, W) of any dtype at ``coords`` (B, 2, h, w) in the frame: (B, h, w)."""
    whole = (coords + 0.5).long()  # rounded down: coordinates are not negative
    index = whole[:, 1] * values.shape[-1] + whole[:, 0]
    return values.flatten(1).gather(1, index.flatten(1)).view(-1, *coords.shape[-2:])


def landing_index(flow: Tensor) -> Tensor:
    """Nearest pixels where a flow (B, 2, H, W) leads, (B, H, W) int64: (y + 1) · (W + 2) + x + 1.

    The index is into a frame with a margin of one pixel, where all is that lands out of the frame.
    """
    height, width = flow.shape[-2:]
    xp, flow, column, row = backend(finite(flow.float()), *_axes(flow))
    x = xp.floor(flow[:, 0] + column + 0.5).clip(-1, width)
    y = xp.floor(flow[:, 1] + row + 0.5).clip(-1, height)
    if xp is torch:
        return y.long() * (width + 2) + x.long() + (width + 3)
    index = y.astype(np.int32)
    index *= width + 2
    index += x.astype(np.int32)
    index += width + 3
    return torch.from_numpy(index.astype(np.int64))


def warp_labels(labels: Tensor, flow: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Bring labels that are known in t to s, nearest neighbour, as ids and never as one-hots.

    Args:
        labels: y_t, (B, H, W), integer.
        flow: F_{s→t}, (B, 2, H, W) in pixels.
        ignore_index: Written where the point is outside of frame t.

    Returns:
        (B, H, W), dtype of ``labels``.
    """
    bytes_alone = labels.dtype in (torch.uint8, torch.bool) and 0 <= ignore_index <= 255
    if bytes_alone and serves(labels, flow) and remap_is_exact():
        return remap_labels(labels, finite(flow.float()), int(ignore_index))
    coords, valid = coordinates(flow)
    return sample_nearest(labels, coords).masked_fill(~valid, ignore_index)


def compose(flow_ji: Tensor, flow_ia: Tensor) -> Tensor:
    """The composed flow, F_{j→a}(x) = F_{j→i}(x) + F_{i→a}(x + F_{j→i}(x)).

    Sampling labels once through the composed flow drifts less than sampling them anew at every step.

    Args:
        flow_ji: F_{j→i}, (B, 2, H, W) in pixels.
        flow_ia: F_{i→a}, (B, 2, H, W) in pixels.

    Returns:
        F_{j→a} (B, 2, H, W) float32. Where the point is not in frame i, the flow goes on as at the border of frame i, a
        smooth guess that keeps interpolation near the border sound.
    """
    [onward] = Sampler(flow_ia).along(flow_ji)
    return add(flow_ji.float(), onward)


def finite(flow: Tensor) -> Tensor:
    """A flow that leads far out of the frame where it was not finite.

    NaN would spread by a pixel with each interpolation, even at whole coordinates, where its weight is zero.
    """
    # Looking for it is cheaper than replacing it, but would make a device wait.
    if serves(flow) and np.isfinite(flow.numpy()).all():
        return flow
    return flow.nan_to_num(LOST, LOST, -LOST)
