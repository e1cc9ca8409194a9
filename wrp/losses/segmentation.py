"""Losses for dense labels."""

from __future__ import annotations

from segmentation_models_pytorch.losses import DiceLoss
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


_DICE = DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE_INDEX)


def cross_entropy_dice(logits: Tensor, labels: Tensor, dice: float) -> Tensor:
    """Cross-entropy plus ``dice`` times the Dice loss of segmentation-models-pytorch over the classes that occur.

    Dice weighs every class alike, so that thin and rare ones are learned in short trainings, too.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        dice: Weight of the Dice loss; 0 leaves it out.

    Returns:
        Scalar float32.
    """
    loss = cross_entropy(logits, labels)
    return loss + dice * _DICE(logits.float(), labels.long()) if dice else loss
