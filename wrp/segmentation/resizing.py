"""Resizing within networks; while one is traced for export, sides in pixels are tensors that stand for any number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def scaled(side: Any, scale: float, multiple: int = 1, least: int = 1) -> Any:
    """Return a side of a resized image, rounded to a multiple of a number.

    Args:
        side: The side in pixels, a number or a tensor of one.
        scale: Magnification.
        multiple: The result is a multiple of this number of pixels.
        least: The result is at least this number of pixels, itself such a multiple.

    Example:
        >>> scaled(101, 0.75), scaled(101, 0.75, multiple=32), scaled(torch.tensor(101), 0.75)
        (76, 64, tensor(76))
    """
    if isinstance(side, Tensor):
        # In the precision of Python's numbers, so that ties are rounded alike.
        return ((side.to(torch.float64) * scale / multiple).round() * multiple).clamp(min=least).to(torch.int64)
    return max(least, round(side * scale / multiple) * multiple)


def padded(side: Any, stride: int, smallest: int) -> Any:
    """Return a side of an image that is padded to a multiple of the stride, at least to ``smallest`` pixels.

    Example:
        >>> padded(101, 32, 64), padded(3, 32, 64), padded(torch.tensor(101), 32, 64)
        (128, 64, tensor(128))
    """
    at_least = side.clamp(min=smallest) if isinstance(side, Tensor) else max(side, smallest)
    return (at_least + stride - 1) // stride * stride


def resize_smoothly(images: Tensor, size: Sequence[Any]) -> Tensor:
    """Resize images bilinearly, antialiased where they get smaller.

    In tracing, this is a product with a matrix for each side, as the exporter does not know antialiasing.

    Args:
        images: (B, C, H, W) floating point.
        size: Height h and width w in pixels, see :func:`scaled`.

    Returns:
        (B, C, h, w).

    Example:
        >>> images = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
        >>> smaller = resize_smoothly(images, (15, 22))
        >>> traced = resize_smoothly(images, (torch.tensor(15), torch.tensor(22)))
        >>> smaller.shape, bool((smaller - traced).abs().max() < 1e-5)
        (torch.Size([1, 3, 15, 22]), True)
    """
    if not isinstance(size[0], Tensor):
        return functional.interpolate(images, size, mode="bilinear", antialias=True)
    rows, columns = (_weights(images, axis, side) for axis, side in zip((-2, -1), size, strict=True))
    return rows @ images @ columns.T


def _weights(images: Tensor, axis: int, side: Any) -> Tensor:
    """Return the weight of each pixel of an axis in each pixel of the resized one, (side, length) float32: a triangle.

    It is as wide as two pixels of the larger of both grids.
    """
    length: Any = torch.as_tensor(images.shape[axis])
    factor = length.to(torch.float64) / side
    centers = (torch.arange(side, device=images.device) + 0.5) * factor
    pixels = torch.arange(length, device=images.device) + 0.5
    weights: Tensor = (1 - (centers[:, None] - pixels).abs() / factor.clamp(min=1)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).to(images.dtype)
