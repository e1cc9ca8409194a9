"""UniMatch V2 (Yang et al., TPAMI 2025): one stream of strong views, whose features lose complementary channels.

The average of the network's past weights labels the image as it is; the network learns these labels from two strong
views of it, each of which has the channels that the other one has lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import argmax_with_confidence
from wrp.selftraining.average import AveragedModule
from wrp.selftraining.student import changed_features, draw_rectangle, fit_labels, without_auxiliary
from wrp.structures import IGNORE_INDEX, FrameBatch

# Greatest decay of the average of the weights.
EMA_DECAY = 0.996


def ramped_decay(step: int) -> float:
    """Return the decay of the average of the weights at a step of a training, min(1 - 1 / (step + 1), 0.996).

    Until it is greatest, after 250 steps, all past weights count alike.

    Args:
        step: Number of the step, counted from 0.

    Example:
        >>> ramped_decay(0), ramped_decay(1), ramped_decay(1000)
        (0.0, 0.5, 0.996)
    """
    return min(1 - 1 / (step + 1), EMA_DECAY)


def complementary_factors(count: int, channels: int, whole_ratio: float = 0.5) -> Tensor:
    """Draw the factors of the channels of two strong views: 2M and 2 (1 - M), with M 0 or 1 at equal odds.

    Images drawn at random keep all channels in both views, i.e. their factors are 1, as in the authors' code.

    Args:
        count: Number of images B.
        channels: Number of channels C.
        whole_ratio: Ratio of the images that keep all channels, in [0, 1]; their number is rounded down.

    Returns:
        (2B, C, 1, 1) float32, first those of the first view of each image.

    Example:
        >>> first, second = complementary_factors(4, 8, whole_ratio=0.0).chunk(2)
        >>> (first + second).unique(), first.unique()
        (tensor([2.]), tensor([0., 2.]))
    """
    first = 2.0 * torch.randint(2, (count, channels))
    first[torch.randperm(count)[: int(count * whole_ratio)]] = 1.0
    return torch.cat((first, 2 - first))[..., None, None]


@torch.no_grad()
def cut_mix(*parts: Tensor) -> tuple[Tensor, ...]:
    """Replace a rectangle in half of the images by that of another image of the batch (CutMix, Yun et al., ICCV 2019).

    The other image is the one at the same place from the end of the batch.

    Args:
        parts: Images (B, 3, H, W) and what belongs to their pixels, such as labels (B, H, W); the last two sizes are
            the same for all.

    Returns:
        New tensors of the same shapes and dtypes, all with the same rectangles replaced.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8), torch.tensor([0, 1])
        >>> mixed, of_mixed = cut_mix(images, labels.view(2, 1, 1).expand(2, 8, 8))
        >>> torch.equal(mixed[:, 0], of_mixed.float()), bool((mixed != images).any())
        (True, True)
    """
    mixed = tuple(part.clone() for part in parts)
    height, width = parts[0].shape[-2:]
    for number in range(len(parts[0])):
        if torch.rand(()) < 0.5:
            place = draw_rectangle(height, width)
            for new, part in zip(mixed, parts, strict=True):
                new[number][place] = part[len(part) - 1 - number][place]
    return mixed


class UniMatchV2Module(AveragedModule):
    """A student whose average labels two strong views with complementary channels, where it is confident.

    Scores and predictions are those of the average. All other arguments are those of
    :class:`~wrp.selftraining.student.StudentModule`.

    Args:
        threshold: Predictions of the average with a lower confidence, in [0, 1], do not count.
        cutout: Whether rectangles are cut out of strong views, in addition to those that CutMix replaces.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> module = UniMatchV2Module(3, NetworkArgs("FPN", "tu-regnetx_002"), threshold=0.9)
        >>> module.threshold, module.inference_model is module.average
        (0.9, True)
    """

    averages_buffers = True

    def __init__(self, *args: Any, threshold: float = 0.95, cutout: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, cutout=cutout, **kwargs)
        self.threshold = threshold

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """Compute the supervised loss plus the mean loss of both strong views over the pixels of confident labels.

        As in the paper, the sum over these pixels is divided by the number of all pixels of the image.
        """
        weak = to_unit(unlabelled.images)
        labels, weights = self._label(weak)
        if unlabelled.weights is not None:  # padding outside of the image has no label
            labels = labels.masked_fill(unlabelled.weights == 0, IGNORE_INDEX)
        first, second = (cut_mix(*self.strong(weak, labels), weights) for _ in range(2))
        supervised = self.main(to_unit(labelled.images))
        with self._complementary(len(weak)):
            both = self.main(torch.cat((first[0], second[0])))
        parts = [
            self.loss(logits, fit_labels(of_view, logits), fit_labels(sure, logits))
            for logits, (_, of_view, sure) in zip(both.chunk(2), (first, second), strict=True)
        ]
        truth = fit_labels(labelled.labels, supervised)
        return self.loss(supervised, truth) + self.unlabelled_weight * (parts[0] + parts[1]) / 2

    @torch.no_grad()
    def _label(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Label images by the average: labels (B, H, W), and 1.0 where it is confident, 0.0 elsewhere."""
        probs = without_auxiliary(self.average(images.to(self.dtype))).float().softmax(1)
        labels, confidence = argmax_with_confidence(probs)
        return labels, (confidence >= self.threshold).float()

    def _complementary(self, count: int) -> Any:
        """Return the context in which the second half of a batch has the channels that the first half has lost."""
        drawn: dict[int, Tensor] = {}

        def drop(features: Tensor) -> Tensor:
            channels = features.shape[1]
            # All features of a vision transformer have the same channels, and lose the same ones.
            if channels not in drawn:
                drawn[channels] = complementary_factors(count, channels).to(features)
            return features * drawn[channels]

        return changed_features(self.backbone, drop)

    def decay(self) -> float:
        """Return the decay of the average, see :func:`ramped_decay`."""
        return ramped_decay(self.global_step)
