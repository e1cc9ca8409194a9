"""Scores of propagated labels: by method and by distance to the nearest anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.metrics.segmentation import class_iou, confusion, mean_iou


class PropagationScore(Metric):
    """One confusion matrix for each method and distance.

    Args:
        num_classes: C.
        methods: Names of the propagation methods.
        max_distance: Frames farther from their nearest anchor are counted with this distance.
    """

    matrix: Tensor
    frames: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int, methods: Sequence[str], max_distance: int = 100) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.methods = list(methods)
        self.max_distance = max_distance
        shape = (len(self.methods), max_distance + 1)
        self.add_state(
            "matrix", torch.zeros(*shape, num_classes, num_classes + 1, dtype=torch.long), dist_reduce_fx="sum"
        )
        self.add_state("frames", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, method: str, distance: int, prediction: Tensor, truth: Tensor) -> None:
        """Count one frame: labels (H, W) of a method at this many frames from the nearest anchor."""
        cell = self.methods.index(method), min(distance, self.max_distance)
        self.matrix[cell] += confusion(prediction, truth, self.num_classes)
        self.frames[cell] += 1

    def compute(self) -> dict[str, dict[str, Any]]:
        """For each method: ``miou``, ``per_class`` (C values), ``by_distance`` and ``frames``.

        mIoU and IoU are in percent, rounded to 2 digits, None where nothing was counted.
        """
        return {method: summarize(self.matrix[i], self.frames[i]) for i, method in enumerate(self.methods)}


def summarize(matrix: Tensor, frames: Tensor) -> dict[str, Any]:
    """Scores of one method, see :meth:`PropagationScore.compute`, from its counts by distance.

    Args:
        matrix: Confusion matrices (D, C, C + 1).
        frames: Number of frames at each distance, (D,).
    """
    total = matrix.sum(0)
    return {
        "miou": _percent(mean_iou(total)),
        "per_class": [_percent(value) for value in class_iou(total)],
        "by_distance": {str(d): _percent(mean_iou(matrix[d])) for d in frames.nonzero().flatten().tolist()},
        "frames": int(frames.sum()),
    }


def _percent(value: Tensor) -> float | None:
    return None if torch.isnan(value) else round(100 * value.item(), 2)
