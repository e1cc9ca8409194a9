"""How steady labels are along a video."""

from __future__ import annotations

from torch import Tensor

from wrp.geometry.warp import warp_labels
from wrp.metrics.segmentation import ConfusionMetric, confusion


class TemporalConsistency(ConfusionMetric):
    """Agreement of the predictions of neighbouring frames, one warped onto the other along optical flow.

    The mIoU of the warped prediction against the other one (Liu et al., ECCV 2020), of all pairs as one confusion
    matrix that is summed over processes. It does not measure whether they are right.

    Args:
        num_classes: C.

    Example:
        >>> import torch
        >>> consistency = TemporalConsistency(num_classes=2)
        >>> labels = torch.tensor([[0, 1, 1]], dtype=torch.uint8)
        >>> consistency.update(labels, labels, flow_bw=torch.zeros(2, 1, 3))
        >>> consistency.compute()
        tensor(1., dtype=torch.float64)
    """

    def update(self, previous: Tensor, labels: Tensor, flow_bw: Tensor) -> None:
        """Count one pair.

        Args:
            previous: Prediction of the earlier frame, (H, W) uint8.
            labels: Prediction of the later frame, (H, W) uint8.
            flow_bw: Flow from the later to the earlier frame, (2, H, W) or (1, 2, H, W) float32, in pixels.
        """
        warped = warp_labels(previous[None], flow_bw.view(1, 2, *labels.shape))[0]
        # Where the flow leaves the frame, the warped label is 255, which as truth does not count.
        self.matrix += confusion(labels, warped, self.num_classes)
