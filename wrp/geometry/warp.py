"""Warping along optical flow.

Conventions, used everywhere in the package:

* A flow F_{s→t} is (B, 2, H, W) float32, channel 0 is x (to the right) and channel 1 is y (down), in pixels: the point
  at x in frame s is at x + F_{s→t}(x) in frame t.
* Warping samples backward: warp(z_t, F_{s→t})(x) = z_t(x + F_{s→t}(x)); what is known in t is brought to s.
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
    """Return the coordinates to which a flow leads, and whether they are in the frame.

    Args:
        flow: (B, 2, H, W) in pixels.

    Returns:
        Coordinates x + F(x), (B, 2, H, W) float32 in pixels, and the mask (B, H, W) bool of those that are in the
        frame. Coordinates outside of the mask are finite and in the frame as well, so that they can index, but
        meaningless. A flow that is not finite is out of frame: it must never become a label.

    Example:
        >>> coords, valid = coordinates(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        >>> coords[0, 0].tolist(), valid.tolist()
        ([[1.0, 2.0, 2.0]], [[[True, True, False]]])
    """
    height, width = flow.shape[-2:]
    column, row = _axes(flow)
    x, y = flow[:, 0].float() + column, flow[:, 1].float() + row
    coords = torch.stack((x.clip(0, width - 1), y.clip(0, height - 1)), 1).nan_to_num()
    return coords, inside(x, y, width - 0.5, height - 0.5)


def in_frame(flow: Tensor) -> Tensor:
    """Return where a flow (B, 2, H, W) leads into the frame, (B, H, W) bool: the mask of :func:`coordinates` alone.

    Example:
        >>> in_frame(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        tensor([[[ True,  True, False]]])
    """
    height, width = flow.shape[-2:]
    _, flow, column, row = backend(flow.float(), *_axes(flow))
    return tensor(inside(flow[:, 0] + column, flow[:, 1] + row, width - 0.5, height - 0.5))


def out_of_frame(flow: Tensor) -> Tensor:
    """Return where a flow (B, 2, H, W) leads out of the frame or is not finite, (B, H, W) bool.

    Example:
        >>> out_of_frame(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        tensor([[[False, False,  True]]])
    """
    return tensor(~backend(in_frame(flow))[1])


def _axes(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates of the columns of a flow, (W,), and of its rows, (H, 1)."""
    height, width = flow.shape[-2:]
    column = torch.arange(width, dtype=torch.float32, device=flow.device)
    return column, torch.arange(height, dtype=torch.float32, device=flow.device).view(-1, 1)


class Sampler:
    """Sample maps together along flows, more than once.

    Args:
        values: Images, probabilities or flows of one frame, (B, C, H, W) each; not to be changed as long as samples are
            taken.

    Example:
        >>> sampler = Sampler(torch.tensor([[[[0.0, 4.0, 8.0]]]]))
        >>> sampler.along(torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        [tensor([[[[2., 6., 8.]]]])]
    """

    def __init__(self, *values: Tensor) -> None:
        self.values = values

    @cached_property
    def images(self) -> Images | None:
        """The maps in the layout of OpenCV, where it can do the work; else None."""
        return Images(self.values) if serves(*self.values) and remap_is_exact() else None

    def along(self, flow: Tensor) -> list[Tensor]:
        """Sample each map bilinearly where a flow leads.

        Args:
            flow: (B, 2, H, W) in pixels.

        Returns:
            Samples (B, C, H, W) float32 of each map. Out of the frame they are those at its border; where the flow is
            not finite they are meaningless.
        """
        if serves(flow) and self.images is not None:
            return self.images.along(flow)
        sampled = sample(torch.cat([value.float() for value in self.values], 1), coordinates(flow)[0])
        return list(sampled.split([value.shape[1] for value in self.values], 1))


def sample(values: Tensor, coords: Tensor) -> Tensor:
    """Sample values bilinearly at coordinates.

    Args:
        values: (B, C, H, W).
        coords: (B, 2, h, w) in pixels, in the frame (see :func:`coordinates`); the outer half of a border pixel has its
            value.

    Returns:
        (B, C, h, w) float32.

    Example:
        >>> sample(torch.tensor([[[[0.0, 4.0, 8.0]]]]), torch.tensor([0.5, 0.0]).view(1, 2, 1, 1))
        tensor([[[[2.]]]])
    """
    height, width = values.shape[-2:]
    across, down = (2 / max(side - 1, 1) for side in (width, height))
    grid = torch.stack((coords[:, 0] * across - 1, coords[:, 1] * down - 1), -1)
    with torch.autocast(coords.device.type, enabled=False):
        return functional.grid_sample(values.float(), grid, padding_mode="border", align_corners=True)


def warp(values: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Warp images, probabilities or flows that are known in frame t to frame s.

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
    """Sample the nearest values at coordinates.

    Args:
        values: (B, H, W), any dtype.
        coords: (B, 2, h, w) in pixels, in the frame.

    Returns:
        (B, h, w), dtype of ``values``.

    Example:
        >>> sample_nearest(torch.tensor([[[1, 2, 3]]]), torch.tensor([1.25, 0.0]).view(1, 2, 1, 1))
        tensor([[[2]]])
    """
    whole = (coords + 0.5).long()  # rounded down: coordinates are not negative
    index = whole[:, 1] * values.shape[-1] + whole[:, 0]
    return values.flatten(1).gather(1, index.flatten(1)).view(-1, *coords.shape[-2:])


def landing_index(flow: Tensor) -> Tensor:
    """Return the index of the nearest pixel to which a flow leads: (y + 1) · (W + 2) + x + 1.

    Args:
        flow: (B, 2, H, W) in pixels.

    Returns:
        (B, H, W) int64, the index into a flattened frame with a margin of one pixel; all that lands out of the frame is
        in the margin.

    Example:
        >>> landing_index(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        tensor([[[7, 8, 9]]])
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
    """Warp labels that are known in frame t to frame s, by nearest neighbour, as class indices and never as one-hots.

    Args:
        labels: y_t, (B, H, W), integer.
        flow: F_{s→t}, (B, 2, H, W) in pixels.
        ignore_index: Written where the point is outside of frame t.

    Returns:
        (B, H, W), dtype of ``labels``.

    Example:
        >>> labels = torch.tensor([[[1, 2, 3]]], dtype=torch.uint8)
        >>> warp_labels(labels, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        tensor([[[  2,   3, 255]]], dtype=torch.uint8)
    """
    bytes_alone = labels.dtype in (torch.uint8, torch.bool) and 0 <= ignore_index <= 255
    if bytes_alone and serves(labels, flow) and remap_is_exact():
        return remap_labels(labels, finite(flow.float()), int(ignore_index))
    coords, valid = coordinates(flow)
    return sample_nearest(labels, coords).masked_fill(~valid, ignore_index)


def compose(flow_ji: Tensor, flow_ia: Tensor) -> Tensor:
    """Compose two flows: F_{j→a}(x) = F_{j→i}(x) + F_{i→a}(x + F_{j→i}(x)).

    Sampling labels once through the composed flow drifts less than sampling them anew at every step.

    Args:
        flow_ji: F_{j→i}, (B, 2, H, W) in pixels.
        flow_ia: F_{i→a}, (B, 2, H, W) in pixels.

    Returns:
        F_{j→a} (B, 2, H, W) float32. Where the point is not in frame i, the flow goes on as at the border of frame i, a
        smooth extrapolation that keeps interpolation near the border sound.

    Example:
        >>> compose(torch.ones(1, 2, 1, 1), torch.full((1, 2, 1, 1), 2.0)).flatten()
        tensor([3., 3.])
    """
    [onward] = Sampler(flow_ia).along(flow_ji)
    return add(flow_ji.float(), onward)


def finite(flow: Tensor) -> Tensor:
    """Return a flow (B, 2, H, W) that leads far out of the frame where the given one is not finite.

    NaN would spread by a pixel with each interpolation, even at whole coordinates, where its weight is zero.

    Example:
        >>> finite(torch.tensor([0.5, float("nan")])).tolist()
        [0.5, 1000000.0]
    """
    # Looking for such values is cheaper than replacing them, but would wait for a device.
    if serves(flow) and np.isfinite(flow.numpy()).all():
        return flow
    return flow.nan_to_num(LOST, LOST, -LOST)
