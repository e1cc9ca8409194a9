"""How steady labels are along a video."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.metrics.segmentation import confusion, mean_iou
from wrp.ops.warp import warp_labels


class TemporalConsistency(Metric):
    """Agreement of the predictions of neighbouring frames, one warped onto the other along optical flow.

    The mIoU of the warped prediction against the other one (Liu et al., ECCV 2020), of all pairs as one confusion
    matrix that is summed over processes. It says nothing about whether they are right.

    Args:
        num_classes: C.
    """

    matrix: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, previous: Tensor, labels: Tensor, flow_bw: Tensor) -> None:
        """Count one pair.

        Args:
            previous: Prediction of the earlier frame, (H, W) uint8.
            labels: Prediction of the later frame, (H, W) uint8.
            flow_bw: Flow from the later to the earlier frame, (2, H, W) or (1, 2, H, W) float32, in pixels.
        """
        warped = warp_labels(previous[None], flow_bw.view(1, 2, *labels.shape))[0]
        # Where the flow leaves the frame there is nothing to agree with.
        self.matrix += confusion(labels, warped, self.num_classes)

    def compute(self) -> Tensor:
        """Consistency in [0, 1], float64 scalar."""
        return mean_iou(self.matrix)
