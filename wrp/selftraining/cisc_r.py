"""CISC-R (Wu et al., TPAMI 2022): pseudo-labels rectified by their consistency with labelled images of a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.consistency import to_unit
from wrp.segmentation.losses import weighted_mean
from wrp.segmentation.network import with_features
from wrp.selftraining.student import StudentModule, fit_labels, fit_weights, split_batch
from wrp.structures import IGNORE_INDEX, FrameBatch

# Share of an image's pixels from which on it counts as one that shows a class.
MIN_RATIO = 0.03

# Cosines are kept this far from 0 and 1: rounding takes them beyond, and one logarithm of zero would outweigh an image.
EPSILON = 1e-5


def masked_pool(features: Tensor, mask: Tensor) -> Tensor:
    """Prototype of a class: Σ(feat · M) / (ΣM + 5·10⁻⁴).

    Args:
        features: (B, D, h, w), brought to the mask's size bilinearly.
        mask: (B, H, W), 1 where the class is.

    Returns:
        (B, D) float32; zero where the mask is empty.
    """
    mask = mask.float()[:, None]
    if features.shape[-2:] != mask.shape[-2:]:
        features = functional.interpolate(features.float(), mask.shape[-2:], mode="bilinear", align_corners=False)
    return (features * mask).sum((2, 3)) / (mask.sum((2, 3)) + 5e-4)


def cisc_map(features: Tensor, prototype: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Cross-image semantic consistency S: cosine of every pixel's feature and a prototype.

    Args:
        features: (B, D, h, w), after a ReLU, so that cosines are not negative.
        prototype: v, (B, D).
        size: Height and width of the result; None: the features'.

    Returns:
        (B, H, W) float32; 0 where a feature or the prototype is zero.
    """
    with torch.autocast(features.device.type, enabled=False):
        cosine = functional.cosine_similarity(features.float(), prototype.float()[:, :, None, None], dim=1)
        if size is not None and cosine.shape[-2:] != size:
            cosine = functional.interpolate(cosine[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return cosine


def rectify_weight(mask: Tensor, consistency: Tensor) -> Tensor:
    """How far a pseudo-label is to be believed: ``w = 1 - |M - S|``, without gradient.

    Args:
        mask: M, (…), 1 where the pseudo-label is the class that is asked about; zero everywhere where none is shared.
        consistency: S, (…); zero everywhere where none is shared.
    """
    # Features that are not positive may point away from a prototype.
    return (1 - (mask.float() - consistency.clamp(min=0)).abs()).detach()


def rectify_by_anchor(pseudo: Tensor, features: Tensor, prototypes: Mapping[int, Tensor]) -> Tensor:
    """The same for a video's frame (ours), by the prototypes of the clip's own anchor, over all classes at once.

    w = mean over the classes c that the anchor shows of 1 - abs([P = c] - S_c).

    Args:
        pseudo: P, the propagated label, (H, W).
        features: The frame's, (D, h, w).
        prototypes: v_c (D) of each class of the anchor; may be none: then every label is believed.

    Returns:
        (H, W) float32 in [0, 1].
    """
    if not prototypes:
        return torch.ones(pseudo.shape, device=pseudo.device)
    size = (pseudo.shape[0], pseudo.shape[1])
    weights = [
        rectify_weight(pseudo == c, cisc_map(features[None], vector[None], size)[0]) for c, vector in prototypes.items()
    ]
    return torch.stack(weights).mean(0)


def rectified_loss(logits: Tensor, pseudo: Tensor, weight: Tensor, paper_mean: bool = False) -> Tensor:
    """L_u: cross-entropy of a student against pseudo-labels, weighted.

    Args:
        logits: (B, C, H, W).
        pseudo: (B, H, W) integer, 255 where there is none.
        weight: w, (B, H, W).
        paper_mean: Divide by the number of all pixels, as the paper does, or by that of the labelled ones.

    Returns:
        Scalar float32.
    """
    losses = functional.cross_entropy(logits.float(), pseudo.long(), ignore_index=IGNORE_INDEX, reduction="none")
    if paper_mean:
        return (losses * weight).mean()
    return weighted_mean(losses, pseudo != IGNORE_INDEX, weight)


def consistency_bce(consistency: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of a map S against the truth's mask M, over the labelled pixels.

    Args:
        consistency: S, (B, H, W), computed in float32.
        mask: M, (B, H, W).
        labels: Truth, (B, H, W), 255 where there is none.

    Returns:
        Scalar float32; a connected zero where nothing is labelled.
    """
    with torch.autocast(consistency.device.type, enabled=False):
        sure = consistency.float().clamp(EPSILON, 1 - EPSILON)
        losses = functional.binary_cross_entropy(sure, mask.float(), reduction="none")
    valid = labels != IGNORE_INDEX
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def image_reliability(features: Tensor, labels: Tensor, anchors: Tensor, mean: bool = True) -> float:
    """How badly an image's pseudo-label fits the anchors of its classes; smaller is better.

    R = Σ over its classes of BCE(cosine map to the class's anchor, mask of the class). The mean over the classes (ours)
    does not punish images that show many.

    Args:
        features: (D, h, w).
        labels: Pseudo-label, (H, W).
        anchors: Anchor vector of each class, (C, D).
        mean: Mean over the classes, or their sum, as in the paper.

    Returns:
        R; infinite where none of the classes has an anchor.
    """
    size = (labels.shape[0], labels.shape[1])
    # A class that no labelled image shows well has no anchor, and nothing can be said about it.
    present = [c for c in range(len(anchors)) if bool((labels == c).any()) and bool(anchors[c].any())]
    if not present:
        return math.inf
    losses = [
        float(consistency_bce(cisc_map(features[None], anchors[c][None], size), (labels == c)[None], labels[None]))
        for c in present
    ]
    return sum(losses) / (len(losses) if mean else 1)


def classes_shown(labels: Tensor, num_classes: int) -> list[int]:
    """Classes that cover 3 % of a label (H, W) or more."""
    counts = torch.bincount(labels.flatten().long().clamp(max=num_classes), minlength=num_classes + 1)[:num_classes]
    return (counts >= MIN_RATIO * labels.numel()).nonzero().flatten().tolist()


class QueryIndex:
    """Which labelled images show each class, and how well they stand for it.

    Args:
        shown: Classes of each labelled image, see :func:`classes_shown`.
    """

    def __init__(self, shown: Sequence[Sequence[int]]) -> None:
        self.count = len(shown)
        self.images: dict[int, list[int]] = {}
        for number, classes in enumerate(shown):
            for c in classes:
                self.images.setdefault(c, []).append(number)

    def keep_best(self, scores: Mapping[tuple[int, int], float]) -> None:
        """Keep the better half, rounded up, of each class's images by the score of (class, image): the smaller."""
        for c, numbers in self.images.items():
            ranked = sorted(numbers, key=lambda number: scores[c, number])
            self.images[c] = sorted(ranked[: -(-len(ranked) // 2)])

    def draw(self, classes: Sequence[int], number: float) -> int:
        """A labelled image that shows one of these classes, by a number in [0, 1); those that show more count more."""
        pool = [image for c in classes for image in self.images.get(c, [])] or list(range(self.count))
        return pool[int(number * len(pool))]


# How often a labelled crop is drawn anew until it shares a class with the unlabelled one.
TRIES = 10

Draw = Callable[[Sequence[int]], tuple[Tensor, Tensor]]
"""Draws a labelled crop, image (3, H, W) uint8 and label (H, W) uint8, for one that shows some classes."""


class CiscModule(StudentModule):
    """CISC-R's network: stage 1 with a consistency term, later stages with rectified pseudo-labels.

    Stage 1 is a fit on labelled images alone (:class:`~wrp.structures.FrameBatch`): each image of a batch is compared
    with the next one by a class they share. In later stages the pseudo_labeler, the frozen network of the stage before,
    gives the features by which a pseudo-label is compared with a labelled crop.

    Args:
        consistency: Weight of the consistency term of stage 1.
        paper_mean: Divide the loss of pseudo-labels by all pixels, as the paper does.
        cutout: Whether strong views have rectangles cut out.
    """

    def __init__(
        self, *args: Any, consistency: float = 1.0, paper_mean: bool = False, cutout: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, cutout=cutout, **kwargs)
        self.consistency_weight = consistency
        self.paper_mean = paper_mean
        self.draw: Draw | None = None

    def training_step(self, batch: FrameBatch | Mapping[str, FrameBatch], batch_idx: int) -> Tensor:
        """Loss of stage 1, or of labelled and pseudo-labelled images."""
        if not isinstance(batch, FrameBatch):
            labelled, unlabelled = split_batch(batch)
            loss = self.semi_loss(labelled, unlabelled)
        else:
            labelled = batch
            logits, features = with_features(self.net, to_unit(batch.images))
            labels, weights = self.label_source(batch)
            supervised = self.loss(logits, fit_labels(labels, logits), fit_weights(weights, logits))
            loss = supervised + self.consistency_weight * cross_image_loss(features, batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labelled.stems))
        return loss

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """CE(labelled) + L_u, with L_u weighed by the consistency with a labelled crop of a shared class.

        Where the source says how much each pixel counts (ours), that is a factor of the weight.
        """
        pseudo, sure = self.label_source(unlabelled)
        weight = self.rectify(unlabelled.images, pseudo, labelled)
        if sure is not None:
            weight = weight * sure
        images, labels = self.strong(to_unit(unlabelled.images), pseudo)
        logits = self.both(to_unit(labelled.images), images)
        supervised = self.loss(logits[0], fit_labels(labelled.labels, logits[0]))
        labels, weight = fit_labels(labels, logits[1]), fit_labels(weight, logits[1])
        return supervised + self.unlabelled_weight * rectified_loss(logits[1], labels, weight, self.paper_mean)

    @torch.no_grad()
    def rectify(self, images: Tensor, pseudo: Tensor, labelled: FrameBatch) -> Tensor:
        """W of each pseudo-label, (B, H, W) float32, by a query for each image; 1 without a pseudo_labeler."""
        if self.pseudo_labeler is None:
            return torch.ones(pseudo.shape, device=pseudo.device)
        _, features = with_features(self.pseudo_labeler.inference_model, to_unit(images))
        weights = []
        for number, label in enumerate(pseudo):
            image, truth, c = self._query(label, labelled, number)
            shape = (label.shape[0], label.shape[1])
            if c is None:
                weights.append(rectify_weight(torch.zeros_like(label), torch.zeros(shape, device=label.device)))
                continue
            _, theirs = with_features(self.pseudo_labeler.inference_model, to_unit(image[None]))
            prototype = masked_pool(theirs, (truth == c)[None])
            weights.append(rectify_weight(label == c, cisc_map(features[number : number + 1], prototype, shape)[0]))
        return torch.stack(weights)

    def _query(self, label: Tensor, labelled: FrameBatch, number: int) -> tuple[Tensor, Tensor, int | None]:
        """A labelled crop and a class that it shares with a pseudo-label; None where none was found."""
        wanted = classes_shown(label, self.num_classes)
        for attempt in range(TRIES):
            if self.draw is None:
                at = (number + attempt) % len(labelled.images)
                image, truth = labelled.images[at], labelled.labels[at]
            else:
                image, truth = (part.to(label.device) for part in self.draw(wanted))
            shared = sorted(set(wanted) & set(classes_shown(truth, self.num_classes)))
            if shared:
                return image, truth, shared[int(torch.randint(len(shared), ()))]
        return image, truth, None


def cross_image_loss(features: Tensor, labels: Tensor) -> Tensor:
    """BCE(S_1, M_1) + BCE(S_2, M_2) of neighbouring images of a batch, each map from the other image's prototype.

    Args:
        features: (B, D, h, w).
        labels: Truth, (B, H, W).

    Returns:
        Scalar float32, mean over the pairs that share a class; a connected zero where none do.
    """
    total, pairs = 0.0 * features.float().sum(), 0
    size = (labels.shape[1], labels.shape[2])
    for one, other in ((i, (i + 1) % len(labels)) for i in range(len(labels) if len(labels) > 2 else len(labels) - 1)):
        shared = (set(labels[one].unique().tolist()) & set(labels[other].unique().tolist())) - {IGNORE_INDEX}
        if not shared:
            continue
        c = sorted(shared)[int(torch.randint(len(shared), ()))]
        pairs += 1
        for mine, theirs in ((one, other), (other, one)):
            mask = (labels[theirs] == c)[None]
            prototype = masked_pool(features[theirs : theirs + 1], mask)
            found = cisc_map(features[mine : mine + 1], prototype, size)
            total = total + consistency_bce(found, (labels[mine] == c)[None], labels[mine][None])
    return total / max(pairs, 1)
