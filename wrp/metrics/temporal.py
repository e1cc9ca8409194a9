"""How steady labels are along a video."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from wrp.geometry.warp import warp_labels
from wrp.metrics.segmentation import ConfusionMetric, confusion
from wrp.structures import IGNORE_INDEX


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


class VideoConsistency(Metric):
    """VC_n of VSPW: of the pixels whose true class stays the same for n frames, the ratio that is right in all of them.

    The mean over all stretches of n frames (Miao et al., "VSPW: A Large-scale Dataset for Video Scene Parsing in the
    Wild", CVPR 2021, section 4).

    Args:
        length: Number n of frames, at least 2; VSPW reports 8 and 16.

    Example:
        >>> consistency = VideoConsistency(length=2)
        >>> truth = torch.tensor([[[0, 1]], [[0, 1]], [[0, 0]]], dtype=torch.uint8)
        >>> prediction = torch.tensor([[[0, 1]], [[0, 0]], [[0, 0]]], dtype=torch.uint8)
        >>> consistency.update(prediction, truth)
        >>> consistency.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    total: Tensor
    stretches: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, length: int = 8) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"length must be at least 2 frames, got {length}")
        self.length = length
        self.add_state("total", torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("stretches", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count the stretches of one clip; a clip of fewer than n frames has none.

        Args:
            prediction: Labels of its frames in their order, (T, H, W), integer.
            truth: True labels, the same shape; pixels of 255 do not count.
        """
        right = prediction == truth
        for start in range(len(truth) - self.length + 1):
            stretch = slice(start, start + self.length)
            same = (truth[stretch] == truth[start]).all(0) & (truth[start] != IGNORE_INDEX)
            if same.any():
                self.total += (right[stretch].all(0) & same).sum() / same.sum().double()
                self.stretches += 1

    def compute(self) -> Tensor:
        """Return the mean ratio, a float64 scalar in [0, 1]; NaN without a stretch."""
        return self.total / self.stretches
