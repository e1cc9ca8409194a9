"""SegProp's vote (Marcu et al., ACCV 2020): four soft sources for each frame between two anchors."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from wrp.ops.cpu import backend, tensor
from wrp.ops.warp import nearest_index

# Distances of the frames that vote on a frame in further rounds, on both sides; beside its own votes.
OFFSETS = (5, 10)


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
    index = nearest_index(coords[None], labels.shape[1]).flatten()
    xp, ids, lands = backend(labels, valid)
    # Bytes wrap around: classes count from 1, 255 becomes 0, "nothing lands", and the maximum prefers any class to it.
    ranks = ((ids + xp.ones_like(ids)) * lands).reshape(-1)
    landed = xp.zeros_like(ranks)
    if xp is np:
        np.maximum.at(landed, index.numpy(), ranks)
    else:
        landed.scatter_reduce_(0, index, ranks, "amax")
    return tensor(landed - xp.ones_like(landed)).view_as(labels)


def source_weights(delta: float) -> tuple[float, float]:
    """Weight of the earlier and of the later anchor's sources: exp(-δ) and exp(-(1-δ)), normalised.

    Args:
        delta: δ = (j - a) / (b - a), in [0, 1].
    """
    earlier, later = math.exp(-delta), math.exp(-(1 - delta))
    return earlier / (earlier + later), later / (earlier + later)
