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

# Least ratio of an image's pixels that a class must cover for the image to show it.
MIN_RATIO = 0.03

# Cosines are clamped to [EPSILON, 1 - EPSILON]: rounding may move them outside of [0, 1], and the logarithm of a single
# zero would dominate the loss of an image.
EPSILON = 1e-5


def masked_pool(features: Tensor, mask: Tensor) -> Tensor:
    """Compute the prototype of a class in each image: Σ(feat · M) / (ΣM + 5·10⁻⁴).

    Args:
        features: (B, D, h, w), resized bilinearly to the size of the mask.
        mask: M, (B, H, W), 1 where the class is.

    Returns:
        (B, D) float32; zero where the mask is empty.

    Example:
        >>> features = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # (1, 2, 1, 2)
        >>> masked_pool(features, torch.tensor([[[0, 1]]]))
        tensor([[2.9985, 3.9980]])
    """
    mask = mask.float()[:, None]
    if features.shape[-2:] != mask.shape[-2:]:
        features = functional.interpolate(features.float(), mask.shape[-2:], mode="bilinear", align_corners=False)
    return (features * mask).sum((2, 3)) / (mask.sum((2, 3)) + 5e-4)


def cisc_map(features: Tensor, prototype: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Compute the cross-image semantic consistency S: the cosine of every pixel's feature and a prototype.

    Args:
        features: (B, D, h, w), after a ReLU, so that cosines are not negative.
        prototype: v, (B, D).
        size: Height and width of the result in pixels; None: those of the features.

    Returns:
        (B, H, W) float32 in [-1, 1]; 0 where a feature or the prototype is zero.

    Example:
        >>> features = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # (1, 2, 1, 2)
        >>> cisc_map(features, torch.tensor([[3.0, 4.0]]))
        tensor([[[0.6000, 1.0000]]])
    """
    with torch.autocast(features.device.type, enabled=False):
        cosine = functional.cosine_similarity(features.float(), prototype.float()[:, :, None, None], dim=1)
        if size is not None and cosine.shape[-2:] != size:
            cosine = functional.interpolate(cosine[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return cosine


def rectify_weight(mask: Tensor, consistency: Tensor) -> Tensor:
    """Compute the weight of a pseudo-label, ``w = 1 - |M - S|``, without gradient.

    Args:
        mask: M, (…), 1 where the pseudo-label is the class shared with the labelled image; zero everywhere if there is
            no shared class.
        consistency: S, (…), in [-1, 1]; negative values count as 0. Zero everywhere if there is no shared class.

    Returns:
        (…) float32 in [0, 1].

    Example:
        >>> rectify_weight(torch.tensor([1, 1, 0]), torch.tensor([1.0, 0.25, 0.25])).tolist()
        [1.0, 0.25, 0.75]
    """
    # The cosine of features that are not positive may be negative.
    return (1 - (mask.float() - consistency.clamp(min=0)).abs()).detach()


def rectify_by_anchor(pseudo: Tensor, features: Tensor, prototypes: Mapping[int, Tensor]) -> Tensor:
    """Compute the weight of a video frame's pseudo-label from a keyframe of its clip, for all classes at once (ours).

    w = mean of 1 - abs([P = c] - S_c) over the classes c that the keyframe shows; their prototypes in the keyframe are
    the anchor vectors.

    Args:
        pseudo: P, the propagated label, (H, W) integer.
        features: Features of the frame, (D, h, w).
        prototypes: Prototype v_c (D) of each class that the keyframe shows; if empty, every weight is 1.

    Returns:
        (H, W) float32 in [0, 1].

    Example:
        >>> features, pseudo = torch.tensor([[[1.0, 3.0]], [[0.0, 4.0]]]), torch.tensor([[0, 1]])
        >>> rectify_by_anchor(pseudo, features, {1: torch.tensor([3.0, 4.0])})
        tensor([[0.4000, 1.0000]])
    """
    if not prototypes:
        return torch.ones(pseudo.shape, device=pseudo.device)
    size = (pseudo.shape[0], pseudo.shape[1])
    weights = [
        rectify_weight(pseudo == c, cisc_map(features[None], vector[None], size)[0]) for c, vector in prototypes.items()
    ]
    return torch.stack(weights).mean(0)


def rectified_loss(logits: Tensor, pseudo: Tensor, weight: Tensor, paper_mean: bool = False) -> Tensor:
    """Compute L_u, the weighted cross-entropy of a student against pseudo-labels.

    Args:
        logits: (B, C, H, W).
        pseudo: (B, H, W) integer, 0 … C-1, and 255 where there is none.
        weight: w, (B, H, W) in [0, 1].
        paper_mean: Divide by the number of all pixels (paper); otherwise by that of the labelled pixels.

    Returns:
        Scalar float32.

    Example:
        >>> logits, pseudo, weight = torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), torch.full((1, 1, 2), 0.5)
        >>> rectified_loss(logits, pseudo, weight), rectified_loss(logits, pseudo, weight, paper_mean=True)
        (tensor(0.3466), tensor(0.1733))
    """
    losses = functional.cross_entropy(logits.float(), pseudo.long(), ignore_index=IGNORE_INDEX, reduction="none")
    if paper_mean:
        return (losses * weight).mean()
    return weighted_mean(losses, pseudo != IGNORE_INDEX, weight)


def consistency_bce(consistency: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Compute the binary cross-entropy of a map S and the mask M of the truth, over the labelled pixels.

    Args:
        consistency: S, (B, H, W) in [0, 1]; used in float32.
        mask: M, (B, H, W), 1 where the truth is the class.
        labels: Truth, (B, H, W) integer, 255 where there is none.

    Returns:
        Scalar float32; a zero that is connected to the graph if nothing is labelled.

    Example:
        >>> labels = torch.tensor([[[1, 0, 255]]])
        >>> consistency_bce(torch.full((1, 1, 3), 0.5), labels == 1, labels)
        tensor(0.6931)
    """
    with torch.autocast(consistency.device.type, enabled=False):
        sure = consistency.float().clamp(EPSILON, 1 - EPSILON)
        losses = functional.binary_cross_entropy(sure, mask.float(), reduction="none")
    valid = labels != IGNORE_INDEX
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def image_reliability(features: Tensor, labels: Tensor, anchors: Tensor, mean: bool = True) -> float:
    """Compute how badly an image's pseudo-label fits the anchor vectors of its classes; smaller is better.

    R = Σ over its classes of BCE(cosine map to the class's anchor, mask of the class). The mean over the classes (ours)
    does not penalise images that show many of them.

    Args:
        features: (D, h, w).
        labels: Pseudo-label, (H, W) integer.
        anchors: Anchor vector of each class, (C, D); zero for a class without one.
        mean: Whether to average over the classes; otherwise the sum is taken, as in the paper.

    Returns:
        R, non-negative; infinite if none of the classes has an anchor.

    Example:
        >>> features, labels = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[0, 1]])
        >>> anchors = torch.eye(2)
        >>> image_reliability(features, labels, anchors) < image_reliability(features, 1 - labels, anchors)
        True
    """
    size = (labels.shape[0], labels.shape[1])
    # A class that no labelled image shows well has no anchor, and is left out.
    present = [c for c in range(len(anchors)) if bool((labels == c).any()) and bool(anchors[c].any())]
    if not present:
        return math.inf
    losses = [
        float(consistency_bce(cisc_map(features[None], anchors[c][None], size), (labels == c)[None], labels[None]))
        for c in present
    ]
    return sum(losses) / (len(losses) if mean else 1)


def classes_shown(labels: Tensor, num_classes: int) -> list[int]:
    """List the classes that cover 3 % of a label (H, W) or more.

    Example:
        >>> classes_shown(torch.tensor([[0, 2], [255, 2]]), num_classes=3)
        [0, 2]
    """
    counts = torch.bincount(labels.flatten().long().clamp(max=num_classes), minlength=num_classes + 1)[:num_classes]
    return (counts >= MIN_RATIO * labels.numel()).nonzero().flatten().tolist()


class QueryIndex:
    """An index of the labelled images that show each class, from which images for comparison are drawn.

    Args:
        shown: Classes of each labelled image, see :func:`classes_shown`.

    Attributes:
        count: Number of labelled images.
        images: Numbers of the images that show each class, by class.

    Example:
        >>> index = QueryIndex([[0, 1], [1], [0]])
        >>> index.images
        {0: [0, 2], 1: [0, 1]}
        >>> index.draw(classes=[1], number=0.9)
        1
    """

    def __init__(self, shown: Sequence[Sequence[int]]) -> None:
        self.count = len(shown)
        self.images: dict[int, list[int]] = {}
        for number, classes in enumerate(shown):
            for c in classes:
                self.images.setdefault(c, []).append(number)

    def keep_best(self, scores: Mapping[tuple[int, int], float]) -> None:
        """Keep the better half of each class's images, rounded up.

        Args:
            scores: Score of each pair (class, image); smaller is better.
        """
        for c, numbers in self.images.items():
            ranked = sorted(numbers, key=lambda number: scores[c, number])
            self.images[c] = sorted(ranked[: -(-len(ranked) // 2)])

    def draw(self, classes: Sequence[int], number: float) -> int:
        """Return the number of a labelled image that shows one of these classes; without any, one of all images.

        Args:
            classes: The classes. An image is more likely the more of them it shows.
            number: A random number in [0, 1), which selects the image.
        """
        pool = [image for c in classes for image in self.images.get(c, [])] or list(range(self.count))
        return pool[int(number * len(pool))]


# A labelled crop is drawn at most this many times, until it shares a class with the unlabelled one.
TRIES = 10

Draw = Callable[[Sequence[int]], tuple[Tensor, Tensor]]
"""Draws a labelled crop, image (3, H, W) uint8 and label (H, W) uint8, that shows one of the given classes."""


class CiscModule(StudentModule):
    """CISC-R's network: stage 1 with a consistency term, later stages with rectified pseudo-labels.

    Stage 1 trains on labelled images alone (:class:`~wrp.structures.FrameBatch`): each image of a batch is compared
    with the next one by a class that both show. In later stages, the features for comparing a pseudo-label with a
    labelled crop come from the pseudo-labeler, the frozen network of the stage before. All other arguments are those of
    :class:`~wrp.selftraining.student.StudentModule`.

    Args:
        consistency: Weight of the consistency term of stage 1.
        paper_mean: Whether the loss of pseudo-labels is divided by the number of all pixels (paper).
        cutout: Whether rectangles are cut out of strong views.

    Attributes:
        draw: Draws labelled crops for comparison; None: those of the batch are used.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> module = CiscModule(3, NetworkArgs("FPN", "tu-regnetx_002"), consistency=0.5)
        >>> module.consistency_weight, module.draw
        (0.5, None)
    """

    def __init__(
        self, *args: Any, consistency: float = 1.0, paper_mean: bool = False, cutout: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, cutout=cutout, **kwargs)
        self.consistency_weight = consistency
        self.paper_mean = paper_mean
        self.draw: Draw | None = None

    def training_step(self, batch: FrameBatch | Mapping[str, FrameBatch], batch_idx: int) -> Tensor:
        """Compute and log the loss of stage 1, or of labelled and pseudo-labelled images."""
        if not isinstance(batch, FrameBatch):
            labelled, unlabelled = split_batch(batch)
            loss = self.semi_loss(labelled, unlabelled)
        else:
            labelled = batch
            logits, features = with_features(self.net, to_unit(batch.images))
            labels, weights = self.label_source(batch)
            supervised = self.loss(logits, fit_labels(labels, logits), fit_weights(weights, logits))
            loss = supervised + self.consistency_weight * cross_image_loss(features, batch.labels)
        self.log_loss(loss, len(labelled.stems))
        return loss

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """Compute CE(labelled) + L_u, with L_u weighted by the consistency with a labelled crop of a shared class.

        If the source of pseudo-labels returns weights, they are a factor of these weights (ours).
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
        """Compute the weight w of each pseudo-label by comparing each image with one labelled crop.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            pseudo: Pseudo-labels, (B, H, W) uint8.
            labelled: Labelled crops to compare with, if :attr:`draw` is None.

        Returns:
            (B, H, W) float32 in [0, 1]; 1 without a pseudo-labeler.
        """
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
        """Find a labelled crop and a class that it shares with a pseudo-label; None if there is no such class."""
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
    """Compute BCE(S_1, M_1) + BCE(S_2, M_2) of consecutive images of a batch, by a random class that both show.

    Each map S comes from the prototype of the other image.

    Args:
        features: (B, D, h, w).
        labels: Truth, (B, H, W) integer.

    Returns:
        Scalar float32, the mean over the pairs that share a class; if none do, a zero that is connected to the graph.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).expand(2, 2, 1, 2)
        >>> cross_image_loss(features, torch.tensor([[[0, 1]], [[0, 1]]])) < 0.01
        tensor(True)
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
