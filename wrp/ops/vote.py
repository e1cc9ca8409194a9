"""SegProp's vote (Marcu et al., ACCV 2020): four soft sources for each frame between two anchors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wrp.types import IGNORE_INDEX


def push_labels(labels: Tensor, coords: Tensor, valid: Tensor) -> Tensor:
    """Labels carried along a flow to where their pixels land.

    Args:
        labels: y_a, (H, W) uint8.
        coords: Where each pixel of a lands in j, (2, H, W) float32 in pixels, in the frame.
        valid: (H, W) bool, it lands in the frame.

    Returns:
        (H, W) uint8, 255 where nothing lands. Of several pixels that land on one, the greatest class index wins, so
        that the result does not depend on the order of writing.
    """
    height, width = labels.shape
    nearest = (coords + 0.5).floor().long()
    # Classes count from 1 and 0 is "nothing lands", so that the maximum prefers any class to none.
    ranks = (labels + 1).masked_fill(~valid | (labels == IGNORE_INDEX), 0)
    landed = torch.zeros(height * width, dtype=torch.uint8, device=labels.device)
    landed.scatter_reduce_(0, (nearest[1] * width + nearest[0]).flatten(), ranks.flatten(), "amax")
    return (landed.view(height, width) - 1).masked_fill(landed.view(height, width) == 0, IGNORE_INDEX)


def source_weights(delta: float) -> tuple[float, float]:
    """Weight of the earlier and of the later anchor's sources: exp(-δ) and exp(-(1-δ)), normalised.

    Args:
        delta: δ = (j - a) / (b - a), in [0, 1].
    """
    earlier, later = math.exp(-delta), math.exp(-(1 - delta))
    return earlier / (earlier + later), later / (earlier + later)
