"""What the systems share: a student that learns from labelled and from pseudo-labelled images at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from wrp.errors import WrpError
from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import resize_labels
from wrp.segmentation.module import SegmentationModule
from wrp.structures import IGNORE_INDEX, FrameBatch


class StrongView(nn.Module):
    """Strong augmentation of unlabelled images (Yang et al., CVPR 2022): colour, greyscale, blur, and cutout.

    Geometry stays, so labels stay where they are; what is cut out has none.

    Args:
        cutout: Whether to cut a rectangle out of half of the images.
    """

    def __init__(self, cutout: bool = True) -> None:
        super().__init__()
        self.cutout = cutout
        self.colors = v2.Compose(
            [
                v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.25)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(7, (0.1, 2.0))], 0.5),
            ]
        )

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) float32 in [0, 1] and labels (B, H, W), each image by its own draw; not in place."""
        strong = torch.stack([self.colors(image) for image in images])
        labels = labels.clone()
        for image, label in zip(strong, labels, strict=True):
            if self.cutout and torch.rand(()) < 0.5:
                height, width = label.shape
                area = height * width * (0.02 + 0.38 * float(torch.rand(())))
                aspect = 0.3 * (1 / 0.09) ** float(torch.rand(()))
                tall, wide = min(height, round((area * aspect) ** 0.5)), min(width, round((area / aspect) ** 0.5))
                top = int(torch.randint(height - tall + 1, ()))
                left = int(torch.randint(width - wide + 1, ()))
                place = (..., slice(top, top + tall), slice(left, left + wide))
                image[place], label[place] = float(torch.rand(())), IGNORE_INDEX
        return strong, labels


class StudentModule(SegmentationModule):
    """A segmentation network that learns from labelled images and from others, whose labels come from a source.

    A batch is a dictionary of two :class:`~wrp.structures.FrameBatch`, ``labelled`` and ``unlabelled``, see
    :class:`~wrp.data.semisupervised.SemiSupervisedData`; the source is :meth:`label_source`: pseudo-labels that were
    written, or the pseudo_labeler's. The loss is that of the labelled images plus that of a strong view of the others,
    each divided by its pixels. All other arguments are those of :class:`~wrp.segmentation.module.SegmentationModule`.

    Args:
        cutout: Whether strong views have rectangles cut out.
        unlabelled_weight: Weight of the loss of the unlabelled images.
    """

    def __init__(self, *args: Any, cutout: bool = True, unlabelled_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.strong = StrongView(cutout)
        self.unlabelled_weight = unlabelled_weight

    def training_step(self, batch: FrameBatch | Mapping[str, FrameBatch], batch_idx: int) -> Tensor:
        """Loss of one batch of both kinds; of labelled images alone where it is one :class:`FrameBatch`."""
        if isinstance(batch, FrameBatch):
            return super().training_step(batch, batch_idx)
        labelled, unlabelled = split_batch(batch)
        loss = self.semi_loss(labelled, unlabelled)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labelled.stems))
        return loss

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """Loss of labelled and unlabelled images; what the systems differ in."""
        labels, weights = self.label_source(unlabelled)
        images, labels = self.strong(to_unit(unlabelled.images), labels)
        logits = self.both(to_unit(labelled.images), images)
        truth = fit_labels(labelled.labels, logits[0])
        mass = fit_weights(weights, logits[1])
        supervised = self.loss(logits[0], truth)
        return supervised + self.unlabelled_weight * self.loss(logits[1], fit_labels(labels, logits[1]), mass)

    def both(self, labelled: Tensor, unlabelled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both kinds of images, in one pass where they have one size."""
        if labelled.shape[1:] != unlabelled.shape[1:]:
            return self.main(labelled), self.main(unlabelled)
        together = self.main(torch.cat((labelled, unlabelled)))
        return together[: len(labelled)], together[len(labelled) :]

    def main(self, images: Tensor) -> Tensor:
        """Logits without auxiliary ones."""
        return without_auxiliary(self(images))


def without_auxiliary(given: Tensor | tuple[Tensor, ...]) -> Tensor:
    """What a network gives, without its auxiliary logits."""
    return given[0] if isinstance(given, tuple) else given


def split_batch(batch: FrameBatch | Mapping[str, FrameBatch]) -> tuple[FrameBatch, FrameBatch]:
    """The labelled and the unlabelled part of a batch; WrpError if it is no such batch."""
    if not isinstance(batch, Mapping) or set(batch) != {"labelled", "unlabelled"}:
        raise WrpError(
            f"a student learns from labelled and unlabelled images at once, got a {type(batch).__name__}: use "
            "--data SemiSupervisedData with a list of unlabelled images, or "
            "data.init_args.propagated.init_args.apart=true"
        )
    return batch["labelled"], batch["unlabelled"]


def fit_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels (B, H, W) at the resolution of logits (B, C, h, w): a network may learn at its working resolution."""
    return resize_labels(labels, (logits.shape[-2], logits.shape[-1]))


def fit_weights(weights: Tensor | None, logits: Tensor) -> Tensor | None:
    """The same for how much each pixel counts, (B, H, W); None stays what it is."""
    return None if weights is None else fit_labels(weights, logits)
