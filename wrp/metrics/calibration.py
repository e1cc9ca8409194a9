"""How far the confidence of labels can be believed, from streaming histograms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.metrics.segmentation import mean_iou
from wrp.structures import IGNORE_INDEX

BINS = 20

# Confidence is added up in whole multiples of 1 / UNIT.
UNIT = 2**20


def confidence_bins(confidence: Tensor) -> Tensor:
    """The bin, int64 in 0 … BINS - 1, of each confidence in [0, 1]."""
    return (confidence * BINS).long().clamp(0, BINS - 1)


def reliability(prediction: Tensor, confidence: Tensor, truth: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Count the pixels of a frame by their confidence.

    Args:
        prediction: (H, W) labels; 255 does not count: it says nothing.
        confidence: (H, W) in [0, 1].
        truth: (H, W) labels; 255 does not count.
        num_classes: C.

    Returns:
        Confusion matrices (BINS, C, C + 1) int64 and the sum of the confidence in each bin, (BINS,) int64, see
        :func:`total_confidence`: whole numbers add up exactly, in any order, and on any device.
    """
    counted = (truth != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
    bins = confidence_bins(confidence)
    cells = BINS * num_classes * (num_classes + 1)
    index = (bins * num_classes + truth.long()) * (num_classes + 1) + prediction.long()
    # The last of the counts takes what does not count.
    counts = torch.bincount(index.masked_fill(~counted, cells).flatten(), minlength=cells + 1)
    units = (confidence * UNIT).round().long()
    sums = torch.zeros(BINS + 1, dtype=torch.long, device=bins.device)
    sums.scatter_add_(0, bins.masked_fill(~counted, BINS).flatten(), units.flatten())
    return counts[:-1].view(BINS, num_classes, num_classes + 1), sums[:-1]


def total_confidence(units: Tensor) -> Tensor:
    """Sums of confidence, float64, from those that :func:`reliability` counts."""
    return units.double() / UNIT


def pixels_by_confidence(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in each bin, and those of them that are right, both (BINS,) int64, of matrices (BINS, C, C + 1)."""
    return counts.sum((-1, -2)), counts[..., :-1].diagonal(dim1=-2, dim2=-1).sum(-1)


def expected_calibration_error(counts: Tensor, sums: Tensor) -> float:
    """ECE in [0, 1]: mean over pixels of ``|confidence - share that is right|`` of their bins; NaN without any."""
    totals, right = pixels_by_confidence(counts)
    return float((sums - right).abs().sum() / totals.sum())


def risk_coverage(counts: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Share of the pixels kept and their mIoU, for each bin's lower end as the least confidence; all pixels last."""
    kept = counts.flip(0).cumsum(0)
    total = counts.sum()
    for matrix, more in zip(kept, counts.flip(0), strict=True):
        if more.any():
            yield float(matrix.sum() / total), mean_iou(matrix)


class CalibrationError(Metric):
    """Expected calibration error of all frames seen, from one histogram that is summed over processes.

    Args:
        num_classes: C.
    """

    counts: Tensor
    sums: Tensor
    full_state_update = False
    higher_is_better = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        shape = (BINS, num_classes, num_classes + 1)
        self.add_state("counts", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(BINS, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, confidence: Tensor, truth: Tensor) -> None:
        """Count labels, confidence and truth of one size; see :func:`reliability`."""
        counts, sums = reliability(prediction, confidence, truth, self.num_classes)
        self.counts += counts
        self.sums += sums

    def compute(self) -> Tensor:
        """ECE in [0, 1], float64 scalar; NaN without pixels."""
        error = expected_calibration_error(self.counts.cpu(), total_confidence(self.sums.cpu()))
        return torch.tensor(error, dtype=torch.float64)
