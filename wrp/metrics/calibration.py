"""How well confidence agrees with the ratio of labels that are right, from streaming histograms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.metrics.segmentation import mean_iou
from wrp.structures import IGNORE_INDEX

BINS = 20

LEVELS = 256
"""Number of values that a confidence has in its picture."""

# Confidence is added up in whole multiples of 1 / UNIT.
UNIT = 2**20


def confidence_bins(confidence: Tensor) -> Tensor:
    """Return the bin, int64 in 0 … BINS - 1, of each confidence in [0, 1], any shape.

    Example:
        >>> confidence_bins(torch.tensor([0.0, 0.5, 1.0]))
        tensor([ 0, 10, 19])
    """
    return (confidence * BINS).long().clamp(0, BINS - 1)


def reliability(prediction: Tensor, confidence: Tensor, truth: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Count the pixels of a frame by their confidence.

    Args:
        prediction: (H, W) integer labels, 0 … C-1; 255, unlabelled, does not count.
        confidence: (H, W) floating point in [0, 1].
        truth: (H, W) integer labels, 0 … C-1; 255 does not count.
        num_classes: C.

    Returns:
        Confusion matrices (BINS, C, C + 1) int64 and the sum of the confidence in each bin, (BINS,) int64, see
        :func:`total_confidence`: whole numbers add up exactly, in any order, and on any device.

    Example:
        >>> labels, truth = torch.tensor([[0, 1]]), torch.tensor([[0, 0]])
        >>> counts, sums = reliability(labels, torch.tensor([[0.75, 0.25]]), truth, num_classes=2)
        >>> counts.shape, total_confidence(sums).sum()
        (torch.Size([20, 2, 3]), tensor(1., dtype=torch.float64))
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
    """Convert the sums of confidence that :func:`reliability` counts to float64.

    Example:
        >>> total_confidence(torch.tensor([2**20, 2**19]))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    return units.double() / UNIT


def pixels_by_level(prediction: Tensor, confidence: Tensor, truth: Tensor) -> Tensor:
    """Count the pixels of a frame, and those of them that are right, by their confidence as it is written.

    Args:
        prediction: (H, W) integer labels, 0 … C-1; 255, unlabelled, does not count.
        confidence: (H, W) floating point in [0, 1].
        truth: (H, W) integer labels, 0 … C-1; 255 does not count.

    Returns:
        Both counts for each confidence in steps of 1 / 255, (2, 256) int64.

    Example:
        >>> labels, truth = torch.tensor([[0, 1]]), torch.tensor([[0, 0]])
        >>> pixels_by_level(labels, torch.tensor([[1.0, 0.2]]), truth)[:, [51, 255]]
        tensor([[1, 1],
                [0, 1]])
    """
    counted = (truth != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
    level = (confidence * (LEVELS - 1)).round().long().masked_fill(~counted, LEVELS).flatten()
    counts = torch.zeros(2, LEVELS + 1, dtype=torch.long, device=level.device)
    counts[0].scatter_add_(0, level, torch.ones_like(level))
    counts[1].scatter_add_(0, level, (prediction == truth).long().flatten())
    return counts[:, :-1]


def pixels_by_confidence(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Count all pixels of each bin, and those that are right.

    Args:
        counts: Confusion matrices (BINS, C, C + 1), see :func:`reliability`.

    Returns:
        Both (BINS,) int64.

    Example:
        >>> pixels_by_confidence(torch.tensor([[[3, 1, 0], [0, 2, 0]]]))
        (tensor([6]), tensor([5]))
    """
    return counts.sum((-1, -2)), counts[..., :-1].diagonal(dim1=-2, dim2=-1).sum(-1)


def expected_calibration_error(counts: Tensor, sums: Tensor) -> float:
    """Compute the expected calibration error (Naeini et al., AAAI 2015).

    Args:
        counts: Confusion matrices (BINS, C, C + 1), see :func:`reliability`.
        sums: Sum of the confidence in each bin, (BINS,) float64, see :func:`total_confidence`.

    Returns:
        Mean over all pixels of ``|mean confidence - ratio that is right|`` of their bins, in [0, 1]; NaN without
        pixels.

    Example:
        >>> counts = torch.tensor([[[3, 1, 0], [0, 0, 0]]])
        >>> expected_calibration_error(counts, sums=torch.tensor([2.0]))
        0.25
    """
    totals, right = pixels_by_confidence(counts)
    return float((sums - right).abs().sum() / totals.sum())


def risk_coverage(counts: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield the ratio of the pixels kept and their mIoU, for one threshold of the confidence after another.

    Args:
        counts: Confusion matrices (BINS, C, C + 1), see :func:`reliability`.

    Yields:
        For the lower end of each bin that has pixels, the highest first: the ratio, in (0, 1], of the pixels that are
        at least as confident, and their mIoU in [0, 1], a float64 scalar. The last pair is that of all pixels.

    Example:
        >>> counts = torch.tensor([[[1, 1, 0], [0, 0, 0]], [[2, 0, 0], [0, 0, 0]]])
        >>> [(coverage, miou.item()) for coverage, miou in risk_coverage(counts)]
        [(0.5, 1.0), (1.0, 0.375)]
    """
    kept = counts.flip(0).cumsum(0)
    total = counts.sum()
    for matrix, more in zip(kept, counts.flip(0), strict=True):
        if more.any():
            yield float(matrix.sum() / total), mean_iou(matrix)


class CalibrationError(Metric):
    """Expected calibration error of all frames seen, from one histogram that is summed over processes.

    Args:
        num_classes: C.

    Example:
        >>> error = CalibrationError(num_classes=2)
        >>> error.update(torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.5]]), torch.tensor([[0, 1]]))
        >>> error.compute()
        tensor(0.2500, dtype=torch.float64)
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
        """Count labels, confidence and truth of one size, any shape; see :func:`reliability`."""
        counts, sums = reliability(prediction, confidence, truth, self.num_classes)
        self.counts += counts
        self.sums += sums

    def compute(self) -> Tensor:
        """Return the error in [0, 1], a float64 scalar; NaN without pixels."""
        error = expected_calibration_error(self.counts.cpu(), total_confidence(self.sums.cpu()))
        return torch.tensor(error, dtype=torch.float64)
