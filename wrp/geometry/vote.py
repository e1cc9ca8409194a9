"""SegProp's vote (Marcu et al., ACCV 2020): four soft sources for each frame between two keyframes."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from wrp.geometry.backends.cpu import backend, tensor
from wrp.geometry.warp import landing_index

# Distances of the frames that vote on a frame in further rounds, on both sides; beside its own votes.
OFFSETS = (5, 10)


def push_labels(labels: Tensor, flow: Tensor) -> Tensor:
    """Labels carried along a flow to where their pixels land.

    Args:
        labels: y_a, (H, W) uint8.
        flow: F_{a→j}, (2, H, W) float32 in pixels; what is not finite lands nowhere.

    Returns:
        (H, W) uint8, 255 where nothing lands. Of several pixels that land on one, the greatest class index wins, so
        that the result does not depend on the order of writing.
    """
    index = landing_index(flow[None])[0]
    height, width = labels.shape
    xp, ids = backend(labels)
    # Bytes wrap around: classes count from 1, 255 becomes 0, "nothing lands", and the maximum prefers any class to it.
    ranks = (ids + xp.ones_like(ids)).reshape(-1)
    if xp is np:
        landed = np.zeros((height + 2) * (width + 2), np.uint8)
        np.maximum.at(landed, index.numpy().reshape(-1), ranks)
    else:
        landed = ranks.new_zeros((height + 2) * (width + 2)).scatter_reduce_(0, index.flatten(), ranks, "amax")
    within = landed.reshape(height + 2, width + 2)[1:-1, 1:-1]
    return tensor(within - xp.ones_like(within))


def source_weights(delta: float) -> tuple[float, float]:
    """Weight of the earlier and of the later keyframe's sources: exp(-δ) and exp(-(1-δ)), normalised.

    Args:
        delta: δ = (j - a) / (b - a), in [0, 1].
    """
    earlier, later = math.exp(-delta), math.exp(-(1 - delta))
    return earlier / (earlier + later), later / (earlier + later)
