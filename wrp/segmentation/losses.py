"""Losses for dense labels; every one takes a weight for each pixel, so that an uncertain label counts less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from wrp.errors import WrpError
from wrp.geometry.labels import near_border
from wrp.segmentation.rmi import region_mutual_information
from wrp.structures import IGNORE_INDEX

# Distance to another label, in pixels, up to which a pixel is of the boundary.
BOUNDARY = 2

# OHEM: pixels whose true class has less than this probability are hard, and so is at least one in sixteen.
HARD_PROBABILITY = 0.7
HARD_RATIO = 16


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    balance: float = 0.0,
    boundary: float = 0.0,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the labelled pixels.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and ``ignore_index``.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.
        ignore_index: Label of the pixels that do not count.
        balance: Pixels of a class count by its share of the batch to the power of minus ``balance``: 0 counts every
            pixel, 1 every class alike.
        boundary: Pixels within 2 pixels of another label count 1 + ``boundary`` times.
        class_weights: How much the pixels of each class count; None: all the same.
        label_smoothing: Probability that the truth spreads over all classes.

    Returns:
        Scalar float32, the mean over the pixels of all processes of a distributed run. Where nothing is labelled, a
        zero that is connected to the graph, so that every process has gradients to exchange (torch alone would return
        NaN).

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]))
        tensor(0.6931)
    """
    counted = labels != ignore_index
    pixels = counted.float()
    if boundary:
        pixels = pixels * (1 + boundary * near_border(labels, BOUNDARY))
    labels = labels.long()
    of_class = torch.tensor(class_weights or [1.0] * logits.shape[1], device=logits.device)
    if balance:
        counts = over_processes(torch.stack([(labels == c).sum() for c in range(logits.shape[1])]).float())
        of_class = of_class * torch.where(counts > 0, counts.clamp(min=1) ** -balance, 0.0)
    if balance or class_weights:
        pixels = pixels * of_class[labels.masked_fill(~counted, 0)]
    losses = functional.cross_entropy(
        logits.float(), labels, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    )
    return weighted_mean(losses, pixels, weights)


def ohem(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy over the hard pixels alone: online hard example mining (Shrivastava et al., CVPR 2016).

    Hard are the pixels whose true class has a probability below 0.7, and at least one pixel in sixteen.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32.
    """
    counted = labels != IGNORE_INDEX
    losses = functional.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
    probability = torch.where(counted, (-losses.detach()).exp(), torch.inf)
    least = probability.flatten().kthvalue(max(1, probability.numel() // HARD_RATIO)).values
    return weighted_mean(losses, counted * (probability <= least.clamp(min=HARD_PROBABILITY)), weights)


def dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """One minus the soft Dice coefficient, mean over the classes, zero for those that do not occur.

    The same as segmentation-models-pytorch's ``DiceLoss("multiclass", ignore_index=255)`` where all pixels weigh the
    same.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32.
    """
    pixels = count_pixels(labels, weights)[:, None]
    probs, truth = logits.float().softmax(1), one_hot(labels, logits.shape[1])
    both = (pixels * probs * truth).sum((0, 2, 3))
    of_truth = (pixels * truth).sum((0, 2, 3))
    of_probs = (pixels * probs).sum((0, 2, 3))
    coefficient = 2 * both / (of_probs + of_truth).clamp(min=1e-7)
    return ((1 - coefficient) * (of_truth > 0)).mean()


def lovasz(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The Lovász-Softmax loss (Berman et al., CVPR 2018), mean over the classes that occur.

    The convex extension of one minus the intersection over union, here of weighted pixels; the same as
    segmentation-models-pytorch's ``LovaszLoss("multiclass", ignore_index=255)`` where all weigh the same.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32.
    """
    pixels = count_pixels(labels, weights).flatten()
    probs = logits.float().softmax(1).transpose(0, 1).flatten(1)
    truth = one_hot(labels, logits.shape[1]).transpose(0, 1).flatten(1)
    # Pixels that do not count come last: their error is less than none.
    errors, order = torch.where(pixels > 0, (truth - probs).abs(), -1.0).sort(1, descending=True)
    pixels, truth = pixels[order], truth.gather(1, order)
    everything = (pixels * truth).sum(1, keepdim=True)
    intersection = everything - (pixels * truth).cumsum(1)
    union = everything + (pixels * (1 - truth)).cumsum(1)
    jaccard = 1 - intersection / union.clamp(min=1e-7)
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    occurs = (everything[:, 0] > 0).float()
    return ((errors.clamp(min=0) * steps).sum(1) * occurs).sum() / occurs.sum().clamp(min=1)


def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The focal loss (Lin et al., ICCV 2017) of segmentation-models-pytorch, γ = 2, each class against the others.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32, the sum over the classes and the mean over the pixels.
    """
    # Here, as it loads all of timm, half a second of which no run without this loss has a need.
    from segmentation_models_pytorch.losses._functional import focal_loss_with_logits

    truth = one_hot(labels, logits.shape[1])
    losses = focal_loss_with_logits(logits.float(), truth, gamma=2.0, alpha=None, reduction="none")
    return weighted_mean(losses.sum(1), labels != IGNORE_INDEX, weights)


def rmi(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Region mutual information and binary cross-entropy, half and half (Zhao et al., NeurIPS 2019).

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32, sums over the classes.
    """
    pixels, truth = count_pixels(labels, weights), one_hot(labels, logits.shape[1])
    binary = functional.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none").sum(1)
    mean = weighted_mean(binary, labels != IGNORE_INDEX, weights)
    return (mean + region_mutual_information(logits, truth, pixels)) / 2


def relaxation(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Label relaxation (Zhu et al., CVPR 2019): -log Σ p_c over the classes c in the 3×3 pixels around each pixel.

    At a border, either side will do: propagated borders are some pixels off.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) integer, 0 … C-1 and 255.
        weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

    Returns:
        Scalar float32.
    """
    around = functional.max_pool2d(one_hot(labels, logits.shape[1]), 3, 1, 1) > 0
    log_probs = logits.float().log_softmax(1).masked_fill(~around, -torch.inf)
    # Where no class is around, the logarithm of nothing would spoil the gradient although it counts nothing.
    log_probs = torch.where(around.any(1, keepdim=True), log_probs, 0.0)
    return weighted_mean(-log_probs.logsumexp(1), labels != IGNORE_INDEX, weights)


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

    Args:
        weights: Weight of each loss by its name in :data:`LOSSES`; None: cross-entropy alone.
        cross_entropy: Further arguments of :func:`cross_entropy`, e.g. ``label_smoothing``.

    Raises:
        WrpError: If a loss is unknown or none is left.

    Example:
        >>> logits, labels = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8)
        >>> round(SegmentationLoss({"cross_entropy": 2.0})(logits, labels).item(), 4)
        2.1972
    """

    def __init__(self, weights: dict[str, float] | None = None, cross_entropy: dict[str, Any] | None = None) -> None:
        super().__init__()
        weights = {"cross_entropy": 1.0} if weights is None else dict(weights)
        if not weights or (unknown := [name for name in weights if name not in LOSSES]):
            got = unknown[0] if weights else "none"
            raise WrpError(f"losses must be some of {', '.join(LOSSES)}, each with its weight; got {got}")
        self.weights = weights
        self.cross_entropy = dict(cross_entropy or {})

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Add the losses up.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W) integer, 0 … C-1 and 255.
            weights: How sure each label is, (B, H, W) in [0, 1]; None: all the same.

        Returns:
            Scalar float32.
        """
        total = logits.new_zeros((), dtype=torch.float32)
        for name, weight in self.weights.items():
            extra = self.cross_entropy if name == "cross_entropy" else {}
            total = total + weight * LOSSES[name](logits, labels, weights, **extra)
        return total


def count_pixels(labels: Tensor, weights: Tensor | None) -> Tensor:
    """How much each pixel counts, (B, H, W) float32: nothing where it has no label."""
    counted = labels != IGNORE_INDEX
    return counted.float() if weights is None else weights.float() * counted


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B, H, W) integer as (B, C, H, W) float32; all zero where there is none."""
    spread = functional.one_hot(labels.long().masked_fill(labels == IGNORE_INDEX, num_classes), num_classes + 1)
    return spread[..., :-1].movedim(-1, 1).float()


def weighted_mean(losses: Tensor, pixels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ weight · pixel · loss / Σ pixel over all processes of a distributed run.

    The weights are not in the denominator: labels of which none is sure shall count little, however many they are.
    Gradients are averaged over processes, so each divides by the mean count of all: a process with few labelled pixels
    does not count as much as one with many.

    Args:
        losses: (B, H, W).
        pixels: How much each pixel counts beside the others, (B, H, W); 0 where it has no label.
        weights: How sure its label is, (B, H, W); None: all the same.
    """
    pixels = pixels.float()
    total = over_processes(pixels.sum()).clamp(min=1e-12)
    return (losses * (pixels if weights is None else pixels * weights)).sum() / total


def over_processes(values: Tensor) -> Tensor:
    """The mean of some values without gradient over all processes; the values themselves where there is one."""
    values = values.detach()
    if torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized():
        values = values.clone()
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values
