"""Base of the self-training systems: a student that learns from labelled and pseudo-labelled images at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

    The geometry does not change, so labels stay valid; pixels that are cut out become unlabelled.

    Args:
        cutout: Whether to cut a rectangle out of half of the images.

    Example:
        >>> images, labels = StrongView(cutout=False)(torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32).byte())
        >>> images.shape, labels.unique().tolist()
        (torch.Size([2, 3, 32, 32]), [1])
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
        """Augment images (B, 3, H, W) float32 in [0, 1], with labels (B, H, W), each with its own random draw.

        Returns:
            New images and labels of the same shapes and dtypes.
        """
        strong = torch.stack([self.colors(image) for image in images])
        labels = labels.clone()
        for image, label in zip(strong, labels, strict=True):
            if self.cutout and torch.rand(()) < 0.5:
                height, width = label.shape
                place = draw_rectangle(height, width)
                image[place], label[place] = float(torch.rand(())), IGNORE_INDEX
        return strong, labels


def draw_rectangle(height: int, width: int) -> tuple[Any, ...]:
    """Draw a rectangle at random that covers 2 to 40 % of an image, with sides in a ratio of 0.3 to 1 / 0.3.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The index of the rectangle in a tensor (…, H, W).

    Example:
        >>> image = torch.zeros(3, 100, 100)
        >>> image[draw_rectangle(100, 100)] = 1
        >>> 0.01 < image.mean().item() < 0.42
        True
    """
    area = height * width * (0.02 + 0.38 * float(torch.rand(())))
    aspect = 0.3 * (1 / 0.09) ** float(torch.rand(()))
    tall, wide = min(height, round((area * aspect) ** 0.5)), min(width, round((area / aspect) ** 0.5))
    top = int(torch.randint(height - tall + 1, ()))
    left = int(torch.randint(width - wide + 1, ()))
    return ..., slice(top, top + tall), slice(left, left + wide)


@contextmanager
def changed_features(encoder: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change the features that an encoder gives to its decoder, while the context is open.

    Args:
        encoder: An encoder of segmentation-models-pytorch. Its features are a list of tensors (B, C, h, w), the image
            among them, which stays as it is; those of vision transformers come in a tuple with prefix tokens.
        change: Maps features (B, C, h, w) to features of the same shape.

    Example:
        >>> class Encoder(nn.Module):
        ...     def forward(self, image):
        ...         return [image, image + 1]
        >>> encoder, image = Encoder(), torch.zeros(1, 1, 1, 1)
        >>> with changed_features(encoder, lambda features: 2 * features):
        ...     [features.item() for features in encoder(image)]
        [0.0, 2.0]
    """

    def changed(_: nn.Module, given: tuple[Any, ...], found: Any) -> Any:
        if isinstance(found, tuple):
            return changed(_, given, found[0]), *found[1:]
        return [features if features is given[0] else change(features) for features in found]

    handle = encoder.register_forward_hook(changed)
    try:
        yield
    finally:
        handle.remove()


class StudentModule(SegmentationModule):
    """A segmentation network that learns from labelled images and from unlabelled images with pseudo-labels.

    A batch is a dictionary of two :class:`~wrp.structures.FrameBatch`, ``labelled`` and ``unlabelled``, see
    :class:`~wrp.data.semisupervised.SemiSupervisedData`. Pseudo-labels come from :meth:`label_source`: from files, or
    from the pseudo-labeler. The loss is the mean over the pixels of the labelled images plus the mean over the pixels
    of a strong view of the unlabelled images. All other arguments are those of
    :class:`~wrp.segmentation.module.SegmentationModule`.

    Args:
        cutout: Whether rectangles are cut out of strong views.
        unlabelled_weight: Weight of the loss of the unlabelled images.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> student = StudentModule(3, NetworkArgs("FPN", "tu-regnetx_002"), unlabelled_weight=0.5)
        >>> student.strong.cutout, student.unlabelled_weight
        (True, 0.5)
    """

    def __init__(self, *args: Any, cutout: bool = True, unlabelled_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.strong = StrongView(cutout)
        self.unlabelled_weight = unlabelled_weight

    def training_step(self, batch: FrameBatch | Mapping[str, FrameBatch], batch_idx: int) -> Tensor:
        """Compute and log the loss of a batch of both kinds, or of a :class:`FrameBatch` of labelled images alone."""
        if isinstance(batch, FrameBatch):
            return super().training_step(batch, batch_idx)
        labelled, unlabelled = split_batch(batch)
        loss = self.semi_loss(labelled, unlabelled)
        self.log_loss(loss, len(labelled.stems))
        return loss

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """Compute the loss of labelled and unlabelled images; the systems override this method."""
        labels, weights = self.label_source(unlabelled)
        images, labels = self.strong(to_unit(unlabelled.images), labels)
        logits = self.both(to_unit(labelled.images), images)
        truth = fit_labels(labelled.labels, logits[0])
        mass = fit_weights(weights, logits[1])
        supervised = self.loss(logits[0], truth)
        return supervised + self.unlabelled_weight * self.loss(logits[1], fit_labels(labels, logits[1]), mass)

    def both(self, labelled: Tensor, unlabelled: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of labelled and unlabelled images, in one pass if they have the same size."""
        if labelled.shape[1:] != unlabelled.shape[1:]:
            return self.main(labelled), self.main(unlabelled)
        together = self.main(torch.cat((labelled, unlabelled)))
        return together[: len(labelled)], together[len(labelled) :]

    def main(self, images: Tensor) -> Tensor:
        """Compute logits, without auxiliary ones."""
        return without_auxiliary(self(images))


def without_auxiliary(given: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the main logits of a network's output, which may be a tuple with auxiliary logits.

    Example:
        >>> without_auxiliary((torch.zeros(1), torch.ones(1)))
        tensor([0.])
    """
    return given[0] if isinstance(given, tuple) else given


def split_batch(batch: FrameBatch | Mapping[str, FrameBatch]) -> tuple[FrameBatch, FrameBatch]:
    """Return the labelled and the unlabelled part of a batch.

    Raises:
        WrpError: If the batch is not a dictionary of ``labelled`` and ``unlabelled``.

    Example:
        >>> images, labels = torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1, 8, 8).byte()
        >>> one, other = (FrameBatch(images, labels, [""], [stem], [0]) for stem in ("a", "b"))
        >>> labelled, unlabelled = split_batch({"labelled": one, "unlabelled": other})
        >>> unlabelled.stems
        ['b']
    """
    if not isinstance(batch, Mapping) or set(batch) != {"labelled", "unlabelled"}:
        raise WrpError(
            f"a student learns from labelled and unlabelled images at once, got a {type(batch).__name__}: use "
            "--data SemiSupervisedData with a list of unlabelled images, or "
            "data.init_args.propagated.apart=true"
        )
    return batch["labelled"], batch["unlabelled"]


def fit_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Resize labels (B, H, W) to the resolution of logits (B, C, h, w): a network may learn at its working resolution.

    Example:
        >>> fit_labels(torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]]), torch.zeros(1, 2, 1, 2)).tolist()
        [[[0, 1]]]
    """
    return resize_labels(labels, (logits.shape[-2], logits.shape[-1]))


def fit_weights(weights: Tensor | None, logits: Tensor) -> Tensor | None:
    """Resize pixel weights (B, H, W) to the resolution of logits (B, C, h, w); None stays None.

    Example:
        >>> fit_weights(torch.ones(1, 4, 4), torch.zeros(1, 2, 2, 2)).shape
        torch.Size([1, 2, 2])
    """
    return None if weights is None else fit_labels(weights, logits)
