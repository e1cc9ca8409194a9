"""Labels from class probabilities, by argmax and threshold; their borders and their size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.backends.cpu import backend, hide, tensor
from wrp.structures import IGNORE_INDEX


def argmax_with_confidence(probs: Tensor, ignore_index: int = IGNORE_INDEX) -> tuple[Tensor, Tensor]:
    """Return the most probable class and its probability.

    Args:
        probs: (B, C, H, W), non-negative; all zero or not finite where nothing is known.
        ignore_index: Label of the pixels about which nothing is known.

    Returns:
        Labels (B, H, W) uint8 and confidence (B, H, W) float32 in [0, 1]; 0 where ignored.

    Example:
        >>> probs = torch.tensor([[0.25, 0.0], [0.75, 0.0]]).view(1, 2, 1, 2)
        >>> argmax_with_confidence(probs)
        (tensor([[[  1, 255]]], dtype=torch.uint8), tensor([[[0.7500, 0.0000]]]))
    """
    confidence, labels = probs.float().max(1)
    known = (confidence > 0) & torch.isfinite(probs.sum(1))
    return (
        labels.to(torch.uint8).masked_fill(~known, ignore_index),
        torch.where(known, confidence, 0.0).clamp(max=1.0),
    )


def argmax_frame(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most probable class of one frame and its probability, see :func:`argmax_with_confidence`.

    Args:
        probs: (C, H, W).

    Returns:
        Labels (H, W) uint8, 255 where nothing is known, and confidence (H, W) float32 in [0, 1].

    Example:
        >>> labels, confidence = argmax_frame(torch.tensor([0.25, 0.75]).view(2, 1, 1))
        >>> labels.tolist(), confidence.tolist()
        ([[1]], [[0.75]])
    """
    labels, confidence = argmax_with_confidence(probs[None])
    return labels[0], confidence[0]


def hide_unsure(labels: Tensor, confidence: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Replace labels by 255 where their confidence is below a threshold.

    Args:
        labels: (H, W) uint8.
        confidence: (H, W) float32 in [0, 1].
        least: The threshold.

    Returns:
        Labels, and confidence that is 0 wherever the label is 255; same shapes and dtypes.

    Example:
        >>> labels, confidence = torch.tensor([[3, 4]], dtype=torch.uint8), torch.tensor([[0.5, 0.75]])
        >>> hide_unsure(labels, confidence, least=0.6)
        (tensor([[255,   4]], dtype=torch.uint8), tensor([[0.0000, 0.7500]]))
    """
    labels = hide(labels, tensor(~(backend(confidence)[1] < least)))
    return labels, hide(confidence, tensor(backend(labels)[1] != IGNORE_INDEX), 0)


def near_border(labels: Tensor, radius: int) -> Tensor:
    """Return the pixels whose square neighbourhood holds another label.

    Args:
        labels: (H, W) or (B, H, W); 255 is a label like any other.
        radius: Half the side of the square, in pixels, without the pixel itself.

    Returns:
        bool, the same shape.

    Example:
        >>> near_border(torch.tensor([[0, 0, 1, 1]]), radius=1)
        tensor([[False,  True,  True, False]])
    """
    values = labels.float().view(-1, 1, *labels.shape[-2:])
    size = 2 * radius + 1
    highest = functional.max_pool2d(values, size, 1, radius)
    lowest = -functional.max_pool2d(-values, size, 1, radius)
    return (highest != lowest).view(labels.shape)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize labels (B, H, W) of any integer dtype to another height and width, by nearest neighbour.

    Example:
        >>> resize_labels(torch.tensor([[[1, 2]]], dtype=torch.uint8), (1, 4))
        tensor([[[1, 1, 2, 2]]], dtype=torch.uint8)
    """
    if tuple(labels.shape[-2:]) == size:
        return labels
    return functional.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].to(labels.dtype)
