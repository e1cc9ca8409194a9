"""SegProp's vote (Marcu et al., ACCV 2020): its four sources for each frame between two keyframes."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from wrp.geometry.backends.cpu import backend, tensor
from wrp.geometry.warp import landing_index

# In further rounds, the frames at these distances on both sides vote on a frame, besides its own votes.
OFFSETS = (5, 10)


def push_labels(labels: Tensor, flow: Tensor) -> Tensor:
    """Carry labels along a flow to where their pixels land.

    Args:
        labels: y_a, (H, W) uint8.
        flow: F_{a→j}, (2, H, W) float32 in pixels; what is not finite lands nowhere.

    Returns:
        (H, W) uint8, 255 where nothing lands. Of several pixels that land on one, the greatest class index wins, so
        that the result does not depend on the order of writing.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[1, 2, 3]], dtype=torch.uint8)
        >>> push_labels(labels, torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 1, 3))
        tensor([[255,   1,   2]], dtype=torch.uint8)
    """
    index = landing_index(flow[None])[0]
    height, width = labels.shape
    xp, ids = backend(labels)
    # Bytes wrap around: with 1 added, 255 becomes 0, "nothing lands", and the maximum prefers any class to it.
    ranks = (ids + xp.ones_like(ids)).reshape(-1)
    if xp is np:
        landed = np.zeros((height + 2) * (width + 2), np.uint8)
        np.maximum.at(landed, index.numpy().reshape(-1), ranks)
    else:
        landed = ranks.new_zeros((height + 2) * (width + 2)).scatter_reduce_(0, index.flatten(), ranks, "amax")
    within = landed.reshape(height + 2, width + 2)[1:-1, 1:-1]
    return tensor(within - xp.ones_like(within))


def source_weights(delta: float) -> tuple[float, float]:
    """Return the weights of the earlier and of the later keyframe's sources: exp(-δ) and exp(-(1-δ)), normalised.

    Args:
        delta: δ = (j - a) / (b - a), in [0, 1].

    Example:
        >>> earlier, later = source_weights(0.25)
        >>> round(earlier, 3), round(later, 3)
        (0.622, 0.378)
    """
    earlier, later = math.exp(-delta), math.exp(-(1 - delta))
    return earlier / (earlier + later), later / (earlier + later)
