"""Synthetic noise of labels (ours): what propagation gets wrong, made where the truth is known.

Randomness comes from torch's global generator, on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wrp.ops.warp import warp_labels
from wrp.types import IGNORE_INDEX

# Distance between the nodes of a smooth displacement, in pixels.
WAVELENGTH = 32

# Width of what counts as thin, in pixels.
THIN = 5


def displace(labels: Tensor, amplitude: float) -> Tensor:
    """Each map moved along a smooth random flow of its own, as by a flow that is somewhat wrong.

    Args:
        labels: (S, H, W) uint8.
        amplitude: Standard deviation of the displacement at its nodes, in pixels.

    Returns:
        (S, H, W) uint8; 255 where the flow leaves the frame.
    """
    count, height, width = labels.shape
    nodes = torch.randn(count, 2, height // WAVELENGTH + 2, width // WAVELENGTH + 2) * amplitude
    flow = functional.interpolate(nodes, (height, width), mode="bicubic", align_corners=True).to(labels.device)
    return warp_labels(labels, flow)


def corrupt(labels: Tensor) -> Tensor:
    """Each map with one thing wrong: a class loses its thin parts, or takes the name of another one in some part.

    Args:
        labels: (S, H, W) uint8.

    Returns:
        (S, H, W) uint8.
    """
    return torch.stack([drop_thin(label) if torch.rand(()) < 0.5 else swap_classes(label) for label in labels])


def drop_thin(label: Tensor) -> Tensor:
    """One class of a label (H, W) uint8 without its parts thinner than 5 pixels; what is beside them takes over."""
    mask = label == _draw_class(label)
    inside = -functional.max_pool2d(-mask[None].float(), THIN, 1, THIN // 2)
    opened = functional.max_pool2d(inside, THIN, 1, THIN // 2)[0] > 0
    step = THIN if torch.rand(()) < 0.5 else -THIN
    return torch.where(mask & ~opened, label.roll(step, 1), label)


def swap_classes(label: Tensor) -> Tensor:
    """A label (H, W) uint8 with one class in a random rectangle, a quarter of the frame, under another's name."""
    height, width = label.shape
    top, left = int(torch.randint(height // 2 + 1, ())), int(torch.randint(width // 2 + 1, ()))
    swapped = label.clone()
    part = swapped[top : top + (height + 1) // 2, left : left + (width + 1) // 2]
    part[part == _draw_class(part)] = _draw_class(label)
    return swapped


def _draw_class(label: Tensor) -> int:
    classes = label[label != IGNORE_INDEX].unique()
    return int(classes[torch.randint(len(classes), ())]) if len(classes) else IGNORE_INDEX
