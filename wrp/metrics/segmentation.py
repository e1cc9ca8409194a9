"""mIoU from one confusion matrix over all pixels of all frames."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.structures import IGNORE_INDEX


def confusion(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each pair of truth and prediction.

    Args:
        prediction: Integer labels of any shape, 0 … C-1; 255 is "unlabelled" and is never right.
        truth: Labels of the same shape; pixels of 255 do not count.
        num_classes: C.

    Returns:
        (C, C + 1) int64: rows are the truth, the last column holds the unlabelled predictions.

    Raises:
        ValueError: If the sizes differ or the truth holds other labels.

    Example:
        >>> confusion(torch.tensor([0, 1, 255, 1]), torch.tensor([0, 0, 1, 255]), num_classes=2)
        tensor([[1, 1, 0],
                [0, 0, 1]])
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in size")
    columns = num_classes + 1
    # The first bin takes the pixels that do not count, which is cheaper than selecting the others.
    index = 1 + truth.long() * columns + prediction.long().clamp(max=num_classes)
    counts = torch.bincount(index.masked_fill(truth == IGNORE_INDEX, 0).flatten(), minlength=num_classes * columns + 1)
    if len(counts) > num_classes * columns + 1:
        raise ValueError(f"the truth holds labels beyond the {num_classes} classes that are no {IGNORE_INDEX}")
    return counts[1:].view(num_classes, columns)


def class_iou(matrix: Tensor) -> Tensor:
    """Compute the IoU of each class from confusion matrices (…, C, C + 1), see :func:`confusion`.

    Returns:
        (…, C) float64 in [0, 1]; NaN for classes absent from both truth and prediction.

    Example:
        >>> class_iou(torch.tensor([[1, 1, 0], [0, 2, 0]]))
        tensor([0.5000, 0.6667], dtype=torch.float64)
    """
    counts = matrix.double()
    hits = counts[..., :-1].diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts[..., :-1].sum(-2) - hits
    return hits / union


def mean_iou(matrix: Tensor) -> Tensor:
    """Compute the mean of the class IoUs over the classes that occur.

    Args:
        matrix: Confusion matrices (…, C, C + 1), see :func:`confusion`.

    Returns:
        (…) float64 in [0, 1]; NaN where no class occurs.

    Example:
        >>> mean_iou(torch.tensor([[1, 1, 0], [0, 0, 0]]))
        tensor(0.2500, dtype=torch.float64)
    """
    return class_iou(matrix).nanmean(-1)


class ConfusionMetric(Metric):
    """mIoU of one confusion matrix that is summed over processes.

    Subclasses implement ``update``, which counts into ``matrix``.

    Args:
        num_classes: C.

    Attributes:
        matrix: (C, C + 1) int64, see :func:`confusion`.

    Example:
        >>> class Score(ConfusionMetric):
        ...     def update(self, prediction, truth):
        ...         self.matrix += confusion(prediction, truth, self.num_classes)
        >>> score = Score(num_classes=2)
        >>> score.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
        >>> score.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    matrix: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes + 1, dtype=torch.long), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the mIoU in [0, 1], a float64 scalar."""
        return mean_iou(self.matrix)


class SegmentationScore(ConfusionMetric):
    """mIoU and class IoUs of all frames seen.

    Args:
        num_classes: C.

    Example:
        >>> score = SegmentationScore(num_classes=2)
        >>> score.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 0]]]))
        >>> score.compute(), score.per_class()
        (tensor(0.5000, dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))
    """

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count integer labels (B, H, W) against the truth (B, H, W); see :func:`confusion`."""
        self.matrix += confusion(prediction, truth, self.num_classes)

    def per_class(self) -> Tensor:
        """Return the IoU of each class, see :func:`class_iou`, from what this process has counted."""
        return class_iou(self.matrix)
