"""A baseline in the style of UniMatch (Yang et al., CVPR 2023): self-consistency of one network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import argmax_with_confidence
from wrp.selftraining.student import StudentModule, changed_features, fit_labels
from wrp.structures import IGNORE_INDEX, FrameBatch


class UniMatchModule(StudentModule):
    """A student whose confident predictions on weak views label two strong views, and features with dropout.

    All other arguments are those of :class:`~wrp.selftraining.student.StudentModule`.

    Args:
        threshold: Predictions with a lower confidence, in [0, 1], do not count.
        dropout: Ratio of the encoder's channels that are dropped.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> module = UniMatchModule(3, NetworkArgs("FPN", "tu-regnetx_002"), threshold=0.9)
        >>> module.threshold, module.dropout
        (0.9, 0.5)
    """

    def __init__(self, *args: Any, threshold: float = 0.95, dropout: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.threshold = threshold
        self.dropout = dropout

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """Compute the supervised loss plus half the mean loss of the strong views and half that of dropped features."""
        weak = to_unit(unlabelled.images)
        supervised, plain = self.both(to_unit(labelled.images), weak)
        labels, weights = self._sure(plain)
        size = (weak.shape[-2], weak.shape[-1])
        labels, weights = (functional.interpolate(v[:, None].float(), size)[:, 0] for v in (labels, weights))
        if unlabelled.weights is not None:  # padding outside of the image has no label
            labels = labels.masked_fill(unlabelled.weights == 0, IGNORE_INDEX)
        views = [self.strong(weak, labels) for _ in range(2)]
        parts = []
        for images, of_view in views:
            logits = self.main(images)
            parts.append(self.loss(logits, fit_labels(of_view, logits).long(), fit_labels(weights, logits)))
        with changed_features(self.backbone, lambda features: functional.dropout2d(features, self.dropout)):
            dropped = self.main(weak)
        feature = self.loss(dropped, fit_labels(labels, dropped).long(), fit_labels(weights, dropped))
        truth = fit_labels(labelled.labels, supervised)
        total = (parts[0] + parts[1]) / 4 + feature / 2
        return self.loss(supervised, truth) + self.unlabelled_weight * total

    @torch.no_grad()
    def _sure(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        labels, confidence = argmax_with_confidence(logits.detach().float().softmax(1))
        return labels, (confidence >= self.threshold).float()
