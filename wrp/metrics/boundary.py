"""Boundary IoU: how well the outlines of classes are met, whatever the size of what they surround.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from wrp.structures import IGNORE_INDEX

# Ratio of the image diagonal up to which pixels count as the inner boundary of a class (Cheng et al.).
WIDTH = 0.02


class BoundaryIoU(Metric):
    """Mean over the classes of the IoU of their inner boundaries, each counted over all frames.

    The inner boundary of a class are its pixels within 2 % of the image diagonal of a pixel without the class; the edge
    of the image is one, as in the reference implementation.

    Args:
        num_classes: C.

    Example:
        >>> score = BoundaryIoU(num_classes=2)
        >>> truth = torch.zeros(1, 60, 80, dtype=torch.uint8)
        >>> truth[:, 20:40, 20:60] = 1
        >>> score.update(truth.roll(1, 2), truth)
        >>> round(score.compute().item(), 2)
        0.81
    """

    common: Tensor
    union: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in ("common", "union"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count the frames of a batch.

        Args:
            prediction: Labels (B, H, W), integer, 0 … C-1, or 255 where there is none.
            truth: Labels of the same shape; pixels of 255 do not count.
        """
        known = truth != IGNORE_INDEX
        for label in range(self.num_classes):
            wanted, found = truth == label, (prediction == label) & known
            if not (wanted.any() or found.any()):
                continue
            wanted, found = inner_boundary(wanted), inner_boundary(found)
            self.common[label] += (wanted & found).sum()
            self.union[label] += (wanted | found).sum()

    def per_class(self) -> Tensor:
        """Return the boundary IoU of each class, (C,) float64 in [0, 1]; NaN for classes that occur nowhere."""
        return self.common.double() / self.union.double()

    def compute(self) -> Tensor:
        """Return the mean over the classes that occur, a float64 scalar in [0, 1]."""
        return self.per_class().nanmean()


def inner_boundary(masks: Tensor) -> Tensor:
    """Return the pixels of masks (B, H, W) bool that lie within 2 % of the image diagonal of their outside.

    Example:
        >>> mask = torch.zeros(1, 5, 7, dtype=torch.bool)
        >>> mask[:, 1:4, 1:6] = True
        >>> inner_boundary(mask)[0, 2].int().tolist()
        [0, 1, 0, 0, 0, 1, 0]
    """
    reach = max(1, round(WIDTH * math.hypot(*masks.shape[1:])))
    outside = functional.pad((~masks).int(), (reach,) * 4, value=1)
    size = 2 * reach + 1
    for dim in (1, 2):  # pixels in a square, counted by running sums: the time does not grow with its size
        total = functional.pad(outside.cumsum(dim, dtype=torch.int32), (0, 0, 1, 0) if dim == 1 else (1, 0))
        outside = total.narrow(dim, size, masks.shape[dim]) - total.narrow(dim, 0, masks.shape[dim])
    return masks & (outside > 0)
