"""Losses for dense labels. All of them take a weight for each pixel, so that uncertain labels count less.

Where several processes train, most losses depend on sums over the pixels of all of them. Each loss is therefore written
in two steps: it yields its own sums, is sent their means over the processes, and returns its value. All losses of a
:class:`SegmentationLoss` thus share one ``all_reduce``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import functional

from wrp.errors import WrpError, check_choice
from wrp.geometry.labels import near_border
from wrp.io.together import learning_together, mean_over_processes
from wrp.options import check_losses
from wrp.segmentation.rmi import region_mutual_information
from wrp.structures import IGNORE_INDEX

# A pixel belongs to the boundary if another label is at most this many pixels away.
BOUNDARY = 2

# OHEM: a pixel is hard if its true class has at most this probability; at least one pixel in sixteen is used.
HARD_PROBABILITY = 0.7
HARD_RATIO = 16

Steps = Generator[Tensor, Tensor, Tensor]
"""A loss in two steps: yields sums of this process, a float32 vector; is sent their means; returns a scalar."""

Args = ParamSpec("Args")

_STEPS: dict[str, Callable[..., Steps]] = {}


def finish(losses: Sequence[Steps]) -> list[Tensor]:
    """Compute losses that were begun, by one ``all_reduce`` for all of them if several processes train.

    It is part of every training step, whatever the labels are, so no process can wait for another one in vain.

    Example:
        >>> def mean(values: Tensor) -> Steps:
        ...     [count] = yield torch.tensor([float(len(values))])
        ...     return values.sum() / count
        >>> finish([mean(torch.tensor([1.0, 3.0])), mean(torch.tensor([5.0]))])
        [tensor(2.), tensor(5.)]
    """
    sums = [next(loss) for loss in losses]
    means = mean_over_processes(torch.cat(sums)).split([len(own) for own in sums])
    return [_sent(loss, mean) for loss, mean in zip(losses, means, strict=True)]


def _sent(loss: Steps, means: Tensor) -> Tensor:
    try:
        loss.send(means)
    except StopIteration as end:
        value: Tensor = end.value
        return value
    raise RuntimeError("a loss has two steps: it yields once")


def _in_two_steps(steps: Callable[Args, Steps]) -> Callable[Args, Tensor]:
    """Register a loss for :class:`SegmentationLoss`, and make it a function that returns its value."""

    @wraps(steps)
    def loss(*args: Args.args, **kwargs: Args.kwargs) -> Tensor:
        return finish([steps(*args, **kwargs)])[0]

    _STEPS[steps.__name__] = steps
    loss.__signature__ = inspect.signature(steps).replace(return_annotation=Tensor)  # type: ignore[attr-defined]
    return loss


@_in_two_steps
def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    balance: float = 0.0,
    boundary: float = 0.0,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
) -> Steps:
    """Compute the mean cross-entropy over the labelled pixels.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and ``ignore_index``.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.
        ignore_index: Label of the pixels that do not count.
        balance: The pixels of a class are weighted by the class's pixel count in the batch to the power of
            ``-balance``: 0 weights every pixel alike, 1 every class alike.
        boundary: Pixels within 2 pixels of another label count 1 + ``boundary`` times.
        class_weights: Weight of the pixels of each class, C numbers; None: 1 for all.
        label_smoothing: Probability in [0, 1] that is spread over all classes in the target.

    Returns:
        Scalar float32, the mean over the pixels of all processes of a distributed run. If nothing is labelled, a zero
        that is connected to the graph, so that every process has gradients to exchange (torch alone would return NaN).

    Example:
        >>> cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]))
        tensor(0.6931)
    """
    counted = labels != ignore_index
    pixels = counted.float()
    if boundary:
        pixels = pixels * (1 + boundary * near_border(labels, BOUNDARY))
    labels = labels.long()
    of_class = torch.tensor(class_weights or [1.0] * logits.shape[1], device=logits.device)
    losses = functional.cross_entropy(
        logits.float(), labels, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    )
    if not balance:
        if class_weights:
            pixels = pixels * of_class[labels.masked_fill(~counted, 0)]
        return (yield from _weighted_mean(losses, pixels, weights))
    # How much each class's pixels count depends on the number of them in all processes, and so does the total.
    classes = [labels == c for c in range(logits.shape[1])]
    counts = torch.stack([here.sum() for here in classes]).float()
    own = torch.stack([(pixels * here).sum() for here in classes]) if boundary else counts
    counts, every = (yield torch.cat((counts, own))).chunk(2)
    of_class = of_class * torch.where(counts > 0, counts.clamp(min=1) ** -balance, 0.0)
    pixels = pixels * of_class[labels.masked_fill(~counted, 0)]
    return _ratio(losses, pixels, weights, pixels.sum() + (of_class * (every - own)).sum())


@_in_two_steps
def ohem(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Steps:
    """Compute the cross-entropy of hard pixels only: online hard example mining (Shrivastava et al., CVPR 2016).

    A pixel is hard if the probability of its true class is at most 0.7. The hardest sixteenth of all pixels counts in
    any case.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32, the mean over the hard pixels.

    Example:
        >>> logits = torch.tensor([[[[4.0, 0.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2): one easy pixel, one hard
        >>> ohem(logits, torch.tensor([[[0, 0]]]))
        tensor(0.6931)
    """
    counted = labels != IGNORE_INDEX
    losses = functional.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
    probability = torch.where(counted, (-losses.detach()).exp(), torch.inf)
    least = probability.flatten().kthvalue(max(1, probability.numel() // HARD_RATIO)).values
    hard = counted * (probability <= least.clamp(min=HARD_PROBABILITY))
    return (yield from _weighted_mean(losses, hard, weights))


@_in_two_steps
def dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Steps:
    """Compute the Dice loss: one minus the soft Dice coefficient, averaged over all classes, 0 for absent classes.

    The coefficient is that of the pixels of all processes of a distributed run. The loss equals
    segmentation-models-pytorch's ``DiceLoss("multiclass", ignore_index=255)`` if all pixels have the same weight.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32 in [0, 1].

    Example:
        >>> dice(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
        tensor(0.5000)
    """
    pixels = count_pixels(labels, weights)[:, None]
    probs, truth = logits.float().softmax(1), one_hot(labels, logits.shape[1])
    own = torch.stack([(pixels * one).sum((0, 2, 3)) for one in (probs * truth, truth, probs)])
    means = (yield own.detach().flatten()).view_as(own)
    # Gradients are averaged over the processes. Multiplied by their number, that of this process's own sums adds up to
    # the gradient of the sum over all processes.
    both, of_truth, of_probs = learning_together() * (means + (own - own.detach()))
    coefficient = 2 * both / (of_probs + of_truth).clamp(min=1e-7)
    return ((1 - coefficient) * (of_truth > 0)).mean()


@_in_two_steps
def lovasz(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Steps:
    """Compute the Lovász-Softmax loss (Berman et al., CVPR 2018), averaged over the classes that occur.

    It is the convex extension of one minus the intersection over union, here of weighted pixels. It equals
    segmentation-models-pytorch's ``LovaszLoss("multiclass", ignore_index=255)`` if all pixels have the same weight.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32 in [0, 1].

    Example:
        >>> lovasz(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
        tensor(0.5000)
    """
    pixels = count_pixels(labels, weights).flatten()
    probs = logits.float().softmax(1).transpose(0, 1).flatten(1)
    truth = one_hot(labels, logits.shape[1]).transpose(0, 1).flatten(1)
    # Pixels that do not count are sorted last: their error is set to a negative number.
    errors, order = torch.where(pixels > 0, (truth - probs).abs(), -1.0).sort(1, descending=True)
    pixels, truth = pixels[order], truth.gather(1, order)
    everything = (pixels * truth).sum(1, keepdim=True)
    intersection = everything - (pixels * truth).cumsum(1)
    union = everything + (pixels * (1 - truth)).cumsum(1)
    jaccard = 1 - intersection / union.clamp(min=1e-7)
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    occurs = (everything[:, 0] > 0).float()
    yield logits.new_zeros(0, dtype=torch.float32)  # there is nothing to share
    return ((errors.clamp(min=0) * steps).sum(1) * occurs).sum() / occurs.sum().clamp(min=1)


@_in_two_steps
def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Steps:
    """Compute the focal loss (Lin et al., ICCV 2017), γ = 2, each class against the rest.

    The implementation is that of segmentation-models-pytorch.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32, the sum over the classes and the mean over the pixels.

    Example:
        >>> focal(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))  # 2 classes, each (1 - 0.5)² · log 2
        tensor(0.3466)
    """
    # Imported here, as it loads all of timm: half a second that runs without this loss are spared.
    from segmentation_models_pytorch.losses._functional import focal_loss_with_logits

    truth = one_hot(labels, logits.shape[1])
    losses = focal_loss_with_logits(logits.float(), truth, gamma=2.0, alpha=None, reduction="none")
    return (yield from _weighted_mean(losses.sum(1), labels != IGNORE_INDEX, weights))


@_in_two_steps
def rmi(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Steps:
    """Average the region mutual information loss and binary cross-entropy (Zhao et al., NeurIPS 2019).

    See :func:`~wrp.segmentation.rmi.region_mutual_information`.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32, summed over the classes; it may be negative.

    Example:
        >>> labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
        >>> labels[:, 8:] = 1
        >>> right = 8 * one_hot(labels, 2) - 4
        >>> bool(rmi(right, labels) < rmi(-right, labels))
        True
    """
    pixels, truth = count_pixels(labels, weights), one_hot(labels, logits.shape[1])
    binary = functional.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none").sum(1)
    regions = region_mutual_information(logits, truth, pixels)
    mean = yield from _weighted_mean(binary, labels != IGNORE_INDEX, weights)
    return (mean + regions) / 2


@_in_two_steps
def relaxation(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Steps:
    """Compute the loss of label relaxation (Zhu et al., CVPR 2019).

    It is -log Σ p_c over the classes c in the 3×3 pixels around each pixel. At a border, either class is right: the
    borders of propagated labels are some pixels off.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1]]])  # the two pixels at the border may have either class
        >>> relaxation(torch.zeros(1, 2, 1, 4), labels)  # (2 · log 2 + 2 · 0) / 4
        tensor(0.3466)
    """
    around = _classes_around(labels, logits.shape[1])
    log_probs = logits.float().log_softmax(1).masked_fill(~around, -torch.inf)
    # Without a class nearby, the logarithm of 0 would make the gradient NaN although the pixel does not count.
    log_probs = torch.where(around.any(1, keepdim=True), log_probs, 0.0)
    return (yield from _weighted_mean(-log_probs.logsumexp(1), labels != IGNORE_INDEX, weights))


def _classes_around(labels: Tensor, num_classes: int) -> Tensor:
    """Return which classes the 3×3 pixels around each pixel have, (B, C, H, W) bool."""
    return functional.max_pool2d(one_hot(labels, num_classes), 3, 1, 1) > 0


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "dice": dice,
    "lovasz": lovasz,
    "focal": focal,
    "rmi": rmi,
    "relaxation": relaxation,
}


class SegmentationLoss(nn.Module):
    """A weighted sum of losses.

    Beside ``relaxation``, the other losses leave out the pixels at borders between labels, whose class ``relaxation``
    leaves open: they would make it hard again.

    Args:
        weights: Weight of each loss by its name in :data:`LOSSES`; None: cross-entropy alone.
        cross_entropy: Further arguments of :func:`cross_entropy`, e.g. ``label_smoothing``.

    Raises:
        WrpError: If a loss is unknown, or ``weights`` is empty.

    Example:
        >>> logits, labels = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8)
        >>> round(SegmentationLoss({"cross_entropy": 2.0})(logits, labels).item(), 4)
        2.1972
    """

    def __init__(self, weights: dict[str, float] | None = None, cross_entropy: dict[str, Any] | None = None) -> None:
        super().__init__()
        weights = {"cross_entropy": 1.0} if weights is None else dict(weights)
        if not weights:
            raise WrpError(f"losses must be some of {', '.join(LOSSES)}, each with its weight; got none")
        for name in weights:
            check_choice("loss", name, LOSSES)
        check_losses(weights)
        self.weights = weights
        self.cross_entropy = dict(cross_entropy or {})

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute the weighted sum of the losses.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W) integer, 0 … C-1 and 255.
            weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

        Returns:
            Scalar float32.
        """
        hard = labels
        if "relaxation" in self.weights:
            several = _classes_around(labels, logits.shape[1]).sum(1) > 1
            hard = labels.masked_fill(several, IGNORE_INDEX)
        begun = []
        for name in self.weights:
            extra = self.cross_entropy if name == "cross_entropy" else {}
            begun.append(_STEPS[name](logits, labels if name == "relaxation" else hard, weights, **extra))
        total = logits.new_zeros((), dtype=torch.float32)
        for weight, loss in zip(self.weights.values(), finish(begun), strict=True):
            total = total + weight * loss
        return total


def count_pixels(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return how much each pixel counts, (B, H, W) float32: 0 where it has no label.

    Args:
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: 1 for all.

    Example:
        >>> count_pixels(torch.tensor([[[0, 1, 255]]]), torch.tensor([[[1.0, 0.5, 1.0]]])).tolist()
        [[[1.0, 0.5, 0.0]]]
    """
    counted = labels != IGNORE_INDEX
    return counted.float() if weights is None else weights.float() * counted


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Turn labels (B, H, W) integer into one-hot vectors (B, C, H, W) float32; all zero where there is no label.

    Example:
        >>> one_hot(torch.tensor([[[0, 1, 255]]]), 2).tolist()
        [[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]]
    """
    spread = functional.one_hot(labels.long().masked_fill(labels == IGNORE_INDEX, num_classes), num_classes + 1)
    return spread[..., :-1].movedim(-1, 1).float()


def weighted_mean(losses: Tensor, pixels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute Σ weight · pixel · loss / Σ pixel over all processes of a distributed run.

    The weights are not part of the denominator: labels that are all unsure should count little, however many they are.
    As gradients are averaged over the processes, each process divides by the mean Σ pixel of all of them: a process
    with few labelled pixels counts less than one with many.

    Args:
        losses: (B, H, W).
        pixels: How much each pixel counts relative to the others, (B, H, W); 0 where it has no label.
        weights: How sure its label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32; 0 if no pixel counts.

    Example:
        >>> losses, pixels = torch.tensor([[[1.0, 3.0, 9.0]]]), torch.tensor([[[1, 1, 0]]])
        >>> weighted_mean(losses, pixels), weighted_mean(losses, pixels, torch.full((1, 1, 3), 0.5))
        (tensor(2.), tensor(1.))
    """
    return finish([_weighted_mean(losses, pixels, weights)])[0]


def _weighted_mean(losses: Tensor, pixels: Tensor, weights: Tensor | None) -> Steps:
    pixels = pixels.float()
    [total] = yield pixels.sum()[None]
    return _ratio(losses, pixels, weights, total)


def _ratio(losses: Tensor, pixels: Tensor, weights: Tensor | None, total: Tensor) -> Tensor:
    return (losses * (pixels if weights is None else pixels * weights)).sum() / total.clamp(min=1e-12)
