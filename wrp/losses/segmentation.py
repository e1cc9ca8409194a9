"""Losses for dense labels."""

from __future__ import annotations

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

from wrp.ops.labels import near_border
from wrp.types import IGNORE_INDEX

# Distance to another label, in pixels, up to which a pixel is of the boundary.
BOUNDARY = 2


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = IGNORE_INDEX,
    balance: float = 0.0,
    boundary: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the labelled pixels.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and ``ignore_index``.
        ignore_index: Label of the pixels that do not count.
        balance: Pixels of a class count by its share of the batch to the power of minus ``balance``: 0 counts every
            pixel, 1 every class alike.
        boundary: Pixels within 2 pixels of another label count 1 + ``boundary`` times.

    Returns:
        Scalar float32; a zero that is connected to the graph where nothing is labelled, so that every process of a
        distributed run has gradients to exchange (torch alone would return NaN).

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]))
        tensor(0.6931)
    """
    counted = labels != ignore_index
    pixels = counted.float()
    if boundary:
        pixels = pixels * (1 + boundary * near_border(labels, BOUNDARY))
    labels = labels.long()
    if balance:
        counts = torch.stack([(labels == c).sum() for c in range(logits.shape[1])]).float()
        weights = torch.where(counts > 0, counts.clamp(min=1) ** -balance, 0.0)
        pixels = pixels * weights[labels.masked_fill(~counted, 0)]
    losses = functional.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")
    return (losses * pixels).sum() / pixels.sum().clamp(min=1e-12)


_DICE = DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE_INDEX)


def cross_entropy_dice(
    logits: Tensor, labels: Tensor, dice: float, balance: float = 0.0, boundary: float = 0.0
) -> Tensor:
    """Cross-entropy plus ``dice`` times the Dice loss of segmentation-models-pytorch over the classes that occur.

    Dice and a balanced cross-entropy give rare and thin classes their part in short trainings.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        dice: Weight of the Dice loss; 0 leaves it out.
        balance: See :func:`cross_entropy`.
        boundary: See :func:`cross_entropy`.

    Returns:
        Scalar float32.
    """
    loss = cross_entropy(logits, labels, balance=balance, boundary=boundary)
    return loss + dice * _DICE(logits.float(), labels.long()) if dice else loss
