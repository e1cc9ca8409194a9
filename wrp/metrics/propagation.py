"""Scores of propagated labels on held-out frames: by method, distance and region, and of their confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.geometry.labels import near_border
from wrp.metrics.calibration import (
    BINS,
    expected_calibration_error,
    pixels_by_confidence,
    reliability,
    risk_coverage,
    total_confidence,
)
from wrp.metrics.segmentation import class_iou, confusion, mean_iou
from wrp.structures import IGNORE_INDEX

# Half the width of the band along the borders of the truth, in pixels.
TRIMAP = 3
REGIONS = ("trimap", "inside_error", "outside_error")
UPPER_BOUND = "upper_bound"


@dataclass
class Truth:
    """The true labels of a held-out frame.

    Attributes:
        labels: (H, W) uint8, class indices and 255.
        distance: Frames to the nearest keyframe.
        error: Motion-error mask E_j (H, W) bool, where it is known.

    Example:
        >>> truth = Truth(torch.tensor([[0] * 6 + [1] * 6], dtype=torch.uint8), distance=3)
        >>> truth.trimap.sum()
        tensor(6)
    """

    labels: Tensor
    distance: int
    error: Tensor | None = None

    @cached_property
    def trimap(self) -> Tensor:
        """(H, W) bool: pixels within 3 pixels of another label."""
        return near_border(self.labels, TRIMAP)


class PropagationScore(Metric):
    """Confusion matrices of each method: by distance, by region and by confidence.

    Where both ``motion`` and ``semantic`` are among the methods, ``upper_bound`` is scored as well: at each pixel the
    one of the two that is right. No selection between them is right at more pixels.

    Args:
        num_classes: C.
        methods: Names of the propagation methods.
        max_distance: Frames farther from their nearest keyframe are counted with this distance.

    Example:
        >>> score = PropagationScore(num_classes=2, methods=["motion"])
        >>> labels = torch.tensor([[0, 1]], dtype=torch.uint8)
        >>> score.update("motion", labels, None, Truth(labels, distance=3))
        >>> score.compute()["motion"]["by_distance"]
        {'3': 100.0}
    """

    matrix: Tensor
    frames: Tensor
    regions: Tensor
    by_confidence: Tensor
    confidence: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int, methods: Sequence[str], max_distance: int = 100) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.methods = [*methods, *([UPPER_BOUND] if {"motion", "semantic"} <= set(methods) else [])]
        self.max_distance = max_distance
        count, cells = len(self.methods), (num_classes, num_classes + 1)
        for name, shape in {
            "matrix": (count, max_distance + 1, *cells),
            "frames": (count, max_distance + 1),
            "regions": (count, len(REGIONS), *cells),
            "by_confidence": (count, BINS, *cells),
        }.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(count, BINS, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, method: str, prediction: Tensor, confidence: Tensor | None, truth: Truth) -> None:
        """Count one frame of one method.

        Args:
            method: Name of the method.
            prediction: Its labels (H, W) uint8.
            confidence: Their confidence (H, W) in [0, 1], if it is known.
            truth: The true labels.

        Raises:
            ValueError: If the method is unknown, or labels and truth differ in size.
        """
        row, distance = self.methods.index(method), min(truth.distance, self.max_distance)
        self.matrix[row, distance] += confusion(prediction, truth.labels, self.num_classes)
        self.frames[row, distance] += 1
        masks = {"trimap": truth.trimap}
        if truth.error is not None:
            masks |= {"inside_error": truth.error, "outside_error": ~truth.error}
        for name, mask in masks.items():
            here = truth.labels.masked_fill(~mask, IGNORE_INDEX)
            self.regions[row, REGIONS.index(name)] += confusion(prediction, here, self.num_classes)
        if confidence is not None:
            counts, sums = reliability(prediction, confidence, truth.labels, self.num_classes)
            self.by_confidence[row] += counts
            self.confidence[row] += sums

    def update_frame(self, labels: Mapping[str, tuple[Tensor, Tensor | None]], truth: Truth) -> None:
        """Count one frame of all methods, and of the upper bound, whose labels follow from theirs.

        Args:
            labels: Labels (H, W) uint8 and confidence (H, W) in [0, 1], if it is known, by name of the method.
            truth: The true labels.
        """
        for method, (prediction, confidence) in labels.items():
            self.update(method, prediction, confidence, truth)
        if UPPER_BOUND in self.methods:
            motion, teacher_probs = labels["motion"][0], labels["semantic"][0]
            self.update(UPPER_BOUND, torch.where(teacher_probs == truth.labels, teacher_probs, motion), None, truth)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Return the scores of each method by its name.

        Returns:
            For each method ``miou``, ``per_class`` (C values of IoU), ``by_distance`` (mIoU by number of frames),
            ``frames`` (how many were counted) and ``miou_<region>``. mIoU and IoU are in percent, rounded to 2 digits,
            None where nothing was counted. Where confidence is known: ``ece``, the expected calibration error in
            percent; ``reliability``, for each bin its mean confidence and the ratio of right labels, both in [0, 1],
            and the number of pixels; ``risk_coverage``, pairs of the ratio of pixels kept, in (0, 1], the most
            confident first, and their mIoU in percent.
        """
        return {method: self.summarize(method) for method in self.methods}

    def summarize(self, method: str) -> dict[str, Any]:
        """Return the scores of one method from what this process has counted, see :meth:`compute`."""
        row = self.methods.index(method)
        total = self.matrix[row].sum(0)
        distances = self.frames[row].nonzero().flatten().tolist()
        result: dict[str, Any] = {
            "miou": _percent(mean_iou(total)),
            "per_class": [_percent(value) for value in class_iou(total)],
            "by_distance": {str(d): _percent(mean_iou(self.matrix[row, d])) for d in distances},
            "frames": int(self.frames[row].sum()),
        }
        for region, matrix in zip(REGIONS, self.regions[row], strict=True):
            result[f"miou_{region}"] = _percent(mean_iou(matrix))
        counts, sums = self.by_confidence[row].cpu(), total_confidence(self.confidence[row].cpu())
        if counts.any():
            result["ece"] = round(100 * expected_calibration_error(counts, sums), 2)
            result["reliability"] = _reliability_rows(counts, sums)
            result["risk_coverage"] = [(round(c, 4), _percent(m)) for c, m in risk_coverage(counts)]
        return result


def _reliability_rows(counts: Tensor, sums: Tensor) -> list[tuple[float, float, int]]:
    """Return mean confidence, ratio of right labels and number of pixels of each bin that has any."""
    totals, right = pixels_by_confidence(counts)
    return [
        (round(float(s / n), 4), round(float(r / n), 4), int(n))
        for s, r, n in zip(sums, right, totals, strict=True)
        if n
    ]


def _percent(value: Tensor) -> float | None:
    return None if torch.isnan(value) else round(100 * value.item(), 2)
