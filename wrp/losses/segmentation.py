"""Losses for dense labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from wrp.types import IGNORE_INDEX


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Mean cross-entropy over the labelled pixels.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and ``ignore_index``.
        ignore_index: Label of the pixels that do not count.

    Returns:
        Scalar float32; a zero that is connected to the graph where nothing is labelled, so that every process of a
        distributed run has gradients to exchange (torch alone would return NaN).

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]))
        tensor(0.6931)
    """
    total = functional.cross_entropy(logits.float(), labels.long(), ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)
