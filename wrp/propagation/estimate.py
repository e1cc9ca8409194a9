"""Estimate how good the labels of a run are, from its keyframes alone (ours).

Each keyframe between two others is labelled as if it had no label, see :class:`~wrp.data.items.HeldOutItems`. The error
there is that of a frame as far from a keyframe as a frame can be, at about twice the spacing of the run; nearer to a
keyframe it is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wrp.metrics.segmentation import class_iou
from wrp.propagation.confidence import ConfidenceCounts
from wrp.structures import Clip

# Ratio of the error at the distance of the held-out frames that is there right next to a keyframe; the rest grows with
# the logarithm of the distance. Chosen by experiments/propagation/estimate.py.
FLOOR = 0.5


@dataclass(frozen=True)
class Estimate:
    """The estimated score of the labels that a method makes at the frames without a label.

    Attributes:
        miou: Mean IoU in percent.
        spread: Its standard error in percent, by leaving out each held-out label in turn; None with a single one.
        per_class: IoU of each class in percent; None for classes that no held-out label shows.
        held_out_miou: Mean IoU in percent at the held-out keyframes themselves.
        labels: Number of these keyframes.
        distance: Their mean distance to the keyframes that they were labelled from, in frames.
        seen: Whether networks of the method have learned from these labels, which makes the estimate optimistic.

    Example:
        >>> Estimate(83.2, 1.1, (90.0, 76.4), held_out_miou=78.0, labels=7, distance=24.0).miou
        83.2
    """

    miou: float
    spread: float | None
    per_class: tuple[float | None, ...]
    held_out_miou: float
    labels: int
    distance: float
    seen: bool = False


def estimate(
    counted: Sequence[ConfidenceCounts], method: str, distances: Sequence[int], num_classes: int, grows: bool = True
) -> Estimate | None:
    """Estimate the score of a method at frames without a label.

    Args:
        counted: The counts at each held-out keyframe.
        method: Name of the method.
        distances: Distance of each frame without a label to its nearest keyframe, in frames.
        num_classes: Number of classes C.
        grows: Whether the error depends on the distance, as that of all methods that use keyframes does.

    Returns:
        The estimate; None where there is nothing to estimate from.

    Example:
        >>> counts = {"distances": [8], "confusion": [90, 10, 0, 0, 100, 0]} | dict.fromkeys(("pixels", "right"), [])
        >>> found = estimate([{"motion": counts}], "motion", distances=[1, 2, 3, 4, 3, 2, 1], num_classes=2)
        >>> found.held_out_miou, found.miou
        (90.45, 92.76)
    """
    matrices = torch.tensor([counts[method]["confusion"] for counts in counted], dtype=torch.long)
    matrices = matrices.view(-1, num_classes, num_classes + 1)
    away = [distance for counts in counted for distance in counts[method]["distances"]]
    if not len(matrices) or not matrices.sum() or not distances:
        return None
    total, farthest = matrices.sum(0), sum(away) / len(away)
    factor = _mean_growth(distances, farthest) if grows else 1.0
    found = _scaled(total, factor)
    miou = _mean(found)
    without = [_mean(_scaled(total - one, factor)) for one in matrices] if len(matrices) > 1 else []
    known = [value for value in without if not math.isnan(value)]
    spread = None
    if len(known) > 1:  # the jackknife
        middle = sum(known) / len(known)
        spread = math.sqrt((len(known) - 1) / len(known) * sum((value - middle) ** 2 for value in known))
    return Estimate(
        round(miou, 2),
        None if spread is None else round(spread, 2),
        tuple(None if math.isnan(value) else round(value, 2) for value in found.tolist()),
        round(_mean(100 * class_iou(total)), 2),
        len(matrices),
        round(farthest, 2),
    )


def unlabelled_distances(clip: Clip) -> list[int]:
    """Return the distance of each frame without a label to the nearest keyframe, in frames.

    Example:
        >>> from pathlib import Path
        >>> from wrp.structures import Frame
        >>> frames = tuple(Frame(str(i), Path(f"{i}.png")) for i in range(6))
        >>> unlabelled_distances(Clip("street", frames, keyframes=(0, 5)))
        [1, 2, 2, 1]
    """
    away = map(clip.distance, range(len(clip.frames)))
    return [distance for distance in away if distance]


def _mean_growth(distances: Sequence[int], farthest: float) -> float:
    """Return the mean error at some distances, as a ratio of that at the distance ``farthest``."""
    grown = [math.log1p(distance) / math.log1p(farthest) for distance in distances]
    return sum(FLOOR + (1 - FLOOR) * min(1.0, one) for one in grown) / len(grown)


def _scaled(matrix: Tensor, factor: float) -> Tensor:
    """Return the IoU of each class in percent, (C,), its distance from 100 multiplied by a factor."""
    return 100 - factor * (100 - 100 * class_iou(matrix))


def _mean(values: Tensor) -> float:
    return float(values.nanmean())
