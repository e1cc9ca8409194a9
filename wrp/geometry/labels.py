"""From class probabilities to labels, with pixels that have no class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.backends.cpu import backend, hide, tensor
from wrp.structures import IGNORE_INDEX


def argmax_with_confidence(probs: Tensor, ignore_index: int = IGNORE_INDEX) -> tuple[Tensor, Tensor]:
    """The most probable class and its probability.

    Args:
        probs: (B, C, H, W), non-negative; all zero or not finite where nothing is known.
        ignore_index: Label of the pixels about which nothing is known.

    Returns:
        Labels (B, H, W) uint8 and confidence (B, H, W) float32 in [0, 1]; 0 where ignored.
    """
    confidence, labels = probs.float().max(1)
    known = (confidence > 0) & torch.isfinite(probs.sum(1))
    return (
        labels.to(torch.uint8).masked_fill(~known, ignore_index),
        torch.where(known, confidence, 0.0).clamp(max=1.0),
    )


def argmax_frame(probs: Tensor) -> tuple[Tensor, Tensor]:
    """The same for one frame: probabilities (C, H, W) to labels (H, W) uint8 and confidence (H, W) float32."""
    labels, confidence = argmax_with_confidence(probs[None])
    return labels[0], confidence[0]


def hide_unsure(labels: Tensor, confidence: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Labels (H, W) uint8 with 255 where the confidence (H, W) float32 is below the least, and 0 of it there."""
    labels = hide(labels, tensor(~(backend(confidence)[1] < least)))
    return labels, hide(confidence, tensor(backend(labels)[1] != IGNORE_INDEX), 0)


def near_border(labels: Tensor, radius: int) -> Tensor:
    """Pixels (H, W) or (B, H, W) bool whose square neighbourhood of this radius holds another label; same shape."""
    values = labels.float().view(-1, 1, *labels.shape[-2:])
    size = 2 * radius + 1
    highest = functional.max_pool2d(values, size, 1, radius)
    lowest = -functional.max_pool2d(-values, size, 1, radius)
    return (highest != lowest).view(labels.shape)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) of any integer dtype brought to another height and width, nearest neighbour."""
    if tuple(labels.shape[-2:]) == size:
        return labels
    return functional.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].to(labels.dtype)
