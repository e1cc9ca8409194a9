"""Fuse the labels warped from several sources into one label per pixel: two-keyframe blend and inpainting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.backends.cpu import (
    backend,
    convert,
    filter_rows_and_columns,
    hide,
    join,
    look_up,
    serves,
    strongest,
    tensor,
)
from wrp.geometry.labels import argmax_frame
from wrp.structures import IGNORE_INDEX

# Weights of the two-keyframe blend (ours), as odds, fitted on pairs of keyframes by experiments/propagation/fit.py.
# Photometric errors are mean absolute differences of colours in [0, 1].
NEARNESS = 0.2
PHOTOMETRIC_SCALE = 1 / 12
TRUST_IN_ERROR = 0.3

# Width of the Gaussian over 3×3 pixels that smooths the votes (ours), in pixels, chosen by
# experiments/propagation/fusion.py; the middle row has more than half of the weight, so a line of one pixel stays.
VOTE_SIGMA = 0.7

# Photometric error above which a motion error counts (ours), chosen by experiments/propagation/fusion.py.
CONFIRMED_ERROR = 0.05

# Photometric error up to which a frame looks like the keyframe, and the excess that divides the likeness by e (ours),
# chosen by experiments/propagation/confidence.py.
SAME = 0.02
UNLIKE = 0.4


@dataclass
class WarpedLabels:
    """Labels warped into one frame from S sources, in general from two keyframes along two flows each.

    Attributes:
        labels: (S, H, W) uint8, labels warped into the frame; 255 where a source has none.
        error: (S, H, W) bool, motion-error mask of each source's composed flow.
        photometric: (S, H, W) floating point in [0, 1], photometric error of each source.
        distance: (S,) float32, frames to each source's keyframe.
        keyframe: (S,) int64, number of the keyframe whose label it is, counted from the earlier one, from 0.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> warped.known.tolist(), warped.of_keyframe(1).labels.tolist()
        ([[[True, False]], [[True, True]]], [[[1, 1]]])
    """

    labels: Tensor
    error: Tensor
    photometric: Tensor
    distance: Tensor
    keyframe: Tensor

    def crop(self, rows: slice, columns: slice) -> WarpedLabels:
        """Cut out a part of the frame."""
        return WarpedLabels(
            self.labels[:, rows, columns],
            self.error[:, rows, columns],
            self.photometric[:, rows, columns],
            self.distance,
            self.keyframe,
        )

    def flip(self) -> WarpedLabels:
        """Mirror the frame from left to right."""
        maps = (self.labels.flip(-1), self.error.flip(-1), self.photometric.flip(-1))
        return WarpedLabels(*maps, self.distance, self.keyframe)

    def to(self, device: torch.device) -> WarpedLabels:
        """Move all tensors to a device."""
        return WarpedLabels(*(values.to(device) for values in vars(self).values()))

    def of_keyframe(self, keyframe: int) -> WarpedLabels:
        """Select the sources of the keyframe with a number."""
        mine = self.keyframe == keyframe
        return WarpedLabels(*(values[mine] for values in vars(self).values()))

    @property
    def known(self) -> Tensor:
        """(S, H, W) bool: where a source has a label."""
        return self.labels != IGNORE_INDEX


def join_sources(sources: list[WarpedLabels]) -> WarpedLabels:
    """Join sources of one keyframe.

    Args:
        sources: Warped labels of S_1, S_2, … sources of one frame.

    Returns:
        Warped labels of S_1 + S_2 + … sources.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> join_sources([warped, warped]).labels.shape
        torch.Size([4, 1, 2])
    """
    return WarpedLabels(*(join(values) for values in zip(*(vars(source).values() for source in sources), strict=True)))


def gather(keyframes: list[WarpedLabels]) -> WarpedLabels:
    """Join the sources of several keyframes, the earlier keyframe first, and number the keyframes from 0.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> gather([warped.of_keyframe(1), warped.of_keyframe(0)]).keyframe
        tensor([0, 1])
    """
    numbered = [replace(said, keyframe=torch.full_like(said.keyframe, i)) for i, said in enumerate(keyframes)]
    return join_sources(numbered)


def blend_weights(warped: WarpedLabels) -> Tensor:
    """Weight each source at each pixel (ours): near, consistent and photometrically right keyframes count more.

    w_s ∝ distance^-ν · exp(-photometric / σ) · (trust in error where the motion-error mask is set), normalised over
    the sources that have a label.

    Returns:
        (S, H, W) float32 that sums to 1 over S, or to 0 where no source has a label.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> blend_weights(warped)[:, 0]
        tensor([[0.5547, 0.0000],
                [0.4453, 1.0000]])
    """
    near = warped.distance.clamp(min=0.5).pow(-NEARNESS)
    near = near.view(-1, 1, 1)
    in_error = (TRUST_IN_ERROR - 1) * torch.ones_like(near)
    photometric = convert(warped.photometric, torch.float32)
    # Each factor is a float32 array: in numpy, a number of Python's times a mask would be float64.
    xp, photometric, error, labels, near, in_error = backend(photometric, warped.error, warped.labels, near, in_error)
    weights = _odds(xp, photometric, PHOTOMETRIC_SCALE) * (error * in_error + 1)
    weights = weights * near * (labels != IGNORE_INDEX)
    return tensor(weights / weights.sum(0).clip(1e-12))


def _odds(xp: Any, photometric: Any, scale: float) -> Any:
    return xp.exp(photometric * (-1 / scale)) + 1e-6


def prefer_nearest(warped: WarpedLabels) -> WarpedLabels:
    """Keep at each pixel only the labels of the nearest keyframe that has one there; of two equally near, the earlier.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> prefer_nearest(warped).labels.tolist()
        [[[0, 255]], [[255, 1]]]
    """
    return replace(warped, labels=hide_farther(warped.labels, warped.distance, warped.keyframe))


def hide_farther(labels: Tensor, distance: Tensor, keyframe: Tensor) -> Tensor:
    """Replace labels by 255 where a nearer keyframe, or the earlier of two equally near, has a label.

    Args:
        labels: (S, H, W) uint8, 255 where a source has none; sources of the earlier keyframe first.
        distance: (S,), frames to the source's keyframe.
        keyframe: (S,), number of the keyframe whose label it is.

    Returns:
        (S, H, W) uint8.

    Example:
        >>> labels = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8)
        >>> hide_farther(labels, distance=torch.tensor([1, 3]), keyframe=torch.tensor([0, 1])).tolist()
        [[[0, 255]], [[255, 1]]]
    """
    place = distance.argsort(stable=True).argsort()  # of each source, when the nearest comes first
    same = keyframe[:, None] == keyframe
    rank = torch.where(same, place, len(labels)).amin(1).to(torch.uint8)  # that of the keyframe's nearest source
    rank = rank.to(labels.device, non_blocking=True).view(-1, 1, 1)
    nearest = torch.where(labels != IGNORE_INDEX, rank, IGNORE_INDEX).amin(0)
    return labels.masked_fill(rank != nearest, IGNORE_INDEX)


def blend(warped: WarpedLabels, weights: Tensor, num_classes: int) -> Tensor:
    """Blend warped labels into class probabilities.

    Votes are smoothed over neighbouring pixels (ours): labels are sampled at whole pixels, so each is off by up to half
    a pixel, and neighbours differently.

    Args:
        warped: Warped labels of S sources.
        weights: (S, H, W) float32, see :func:`blend_weights`.
        num_classes: C.

    Returns:
        y^M, (C, H, W) float32 that sums to 1 over C, or to 0 where no source has a label.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> probs = blend(warped, blend_weights(warped), num_classes=3)
        >>> probs.shape, probs.sum(0)
        (torch.Size([3, 1, 2]), tensor([[1., 1.]]))
    """
    votes = smooth(count_votes(warped.labels, weights, num_classes))
    known = warped.known.any(0)
    return votes * (known / votes.sum(0).clamp(min=1e-12))


def blend_labels(warped: WarpedLabels, weights: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the most probable class of :func:`blend` and its probability.

    Args:
        warped: Warped labels of S sources.
        weights: (S, H, W) float32, see :func:`blend_weights`.
        num_classes: C.

    Returns:
        Labels (H, W) uint8, 255 where no source has one, and confidence (H, W) float32 in [0, 1], 0 there.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> labels, confidence = blend_labels(warped, blend_weights(warped), num_classes=3)
        >>> labels
        tensor([[1, 1]], dtype=torch.uint8)
    """
    if not serves(warped.labels, weights):
        return argmax_frame(blend(warped, weights, num_classes))
    labels, most, total = strongest(warped.labels, weights, _kernel())
    known = warped.labels.numpy().min(0) != IGNORE_INDEX  # the greatest value, so a minimum below it is a label
    confidence = most.numpy() * (known / total.numpy().clip(1e-12))
    confidence = np.nan_to_num(confidence.clip(0, 1, confidence), copy=False)
    return hide(labels, tensor(confidence > 0)), tensor(confidence)


def smooth(votes: Tensor) -> Tensor:
    """Average votes (C, H, W) float32 over 3×3 pixels with Gaussian weights; outside of the frame there are none.

    The weights are not normalised: that of the pixel itself is 1.

    Example:
        >>> smooth(torch.tensor([[[0.0, 1.0, 0.0]]]))
        tensor([[[0.3604, 1.0000, 0.3604]]])
    """
    if serves(votes):
        return filter_rows_and_columns(votes, _kernel())
    # Sums of shifted maps: a convolution of single channels takes twenty times as long on a CPU.
    padded = functional.pad(votes, (1, 1, 1, 1))
    columns = padded[:, 1:-1] + _beside() * (padded[:, :-2] + padded[:, 2:])
    return columns[..., 1:-1] + _beside() * (columns[..., :-2] + columns[..., 2:])


def _beside() -> float:
    """Return the weight of the next pixel, relative to that of the pixel itself."""
    return math.exp(-0.5 / VOTE_SIGMA**2)


def _kernel() -> tuple[float, float, float]:
    return _beside(), 1.0, _beside()


def count_votes(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Sum the weights of the sources that have each class.

    Args:
        labels: (S, H, W) uint8; 255 does not count.
        weights: (S, H, W) float32.
        num_classes: C.

    Returns:
        (C, H, W) float32.

    Example:
        >>> labels = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8)
        >>> count_votes(labels, torch.full((2, 1, 2), 0.5), num_classes=2)[:, 0]
        tensor([[0.5000, 0.0000],
                [0.5000, 0.5000]])
    """
    index = labels.long().clamp(max=num_classes)  # the last row collects what has no label
    votes = torch.zeros(num_classes + 1, *index.shape[1:], dtype=torch.float32, device=index.device)
    return votes.scatter_add_(0, index, weights)[:-1]


def weighted_vote(labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label with the greatest weight at each pixel, without a map of votes for each class.

    Args:
        labels: Labels of up to four sources, (S, H, W) uint8; 255 where a source has none.
        weights: Weight of each source, (S,), positive.

    Returns:
        Labels (H, W) uint8, of equals the lowest class, 255 where no source has a label; and the ratio, (H, W) float32
        in [0, 1], of the weight of the sources with this label to that of all sources that have a label there, 0 where
        none has.

    Raises:
        ValueError: If there are more sources, or not as many weights.

    Example:
        >>> labels = torch.tensor([[[0, 255]], [[1, 255]]], dtype=torch.uint8)
        >>> weighted_vote(labels, torch.tensor([3.0, 1.0]))
        (tensor([[  0, 255]], dtype=torch.uint8), tensor([[0.7500, 0.0000]]))
    """
    sums, count = _sums_of_subsets(weights.tolist()), len(labels)
    if count > 4:
        raise ValueError(f"expected the labels of up to four sources, got {count}")
    if len(weights) != count:
        raise ValueError(f"expected a weight for each of {count} sources, got {len(weights)}")
    order = sorted(set(sums))
    ranks = torch.tensor([order.index(one) for one in sums], dtype=torch.uint8)
    order += [0.0] * (len(sums) - len(order))
    shares = torch.tensor([of / everyone if everyone else 0.0 for everyone in sums for of in order])
    # A byte with a bit for each source marks those that agree: the work is on bytes, and weights are looked up.
    xp, labels, bits = backend(labels, 2 ** torch.arange(count, dtype=torch.uint8, device=labels.device))
    chosen = highest = None
    known = xp.zeros_like(labels[0])
    for s, label in enumerate(labels):
        said = label != IGNORE_INDEX
        known = known + bits[s] * said
        # Sources before this one are left out: where one agrees with it, this label was counted there.
        code = sum((bits[other] * (labels[other] == label) for other in range(s + 1, count)), bits[s]) * said
        rank = backend(look_up(ranks, tensor(code)))[1]
        if chosen is None:
            chosen, highest = label, rank
            continue
        better = (rank > highest) | (rank == highest) & (label < chosen)
        chosen = label * better + chosen * ~better  # many times as fast as numpy's `where`
        highest = xp.maximum(rank, highest)
    return tensor(chosen), look_up(shares, tensor(highest + known * len(sums)))


def _sums_of_subsets(weights: list[float]) -> list[float]:
    """Sum the weights of each set of sources; a set is a number with a bit for each source."""
    return [sum(w for s, w in enumerate(weights) if subset >> s & 1) for subset in range(2 ** len(weights))]


def likeness(warped: WarpedLabels, labels: Tensor) -> Tensor:
    """Tell how much a frame looks like the keyframes that have its labels (ours): a factor on their confidence.

    What no keyframe shows, such as an object that comes and goes between two of them, gets the label of what is around
    it from all sources alike. That they agree says nothing there; that the frame looks different does.

    Args:
        warped: Warped labels of S sources.
        labels: (H, W) uint8, the label of each pixel.

    Returns:
        (H, W) float32 in (0, 1], by the least photometric error among the sources with this label; where no source has
        it, that of an error of 1.

    Example:
        >>> labels, unlike = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> unlike[1] = 0.3
        >>> warped = WarpedLabels(labels, unlike.bool(), unlike, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> likeness(warped, torch.tensor([[0, 1]], dtype=torch.uint8))
        tensor([[1.0000, 0.4966]])
    """
    xp, error, theirs, mine = backend(convert(warped.photometric, torch.float32), warped.labels, labels)
    least = xp.amin(xp.where(theirs == mine, error, xp.ones_like(error)), 0)
    return tensor(xp.exp((least - SAME).clip(0) * (-1 / UNLIKE)))


def motion_error(warped: WarpedLabels) -> Tensor:
    """Return the motion-error mask E_j (H, W) bool of the blend: where every source that has a label is in error.

    It is set as well where no source has a label. A source is in error where its composed flow failed the
    forward-backward test and the photometric error confirms it (ours). Combined over many steps, the forward-backward
    test alone fails at many pixels whose label is right.

    Example:
        >>> labels, none = torch.tensor([[[0, 255]], [[1, 1]]], dtype=torch.uint8), torch.zeros(2, 1, 2)
        >>> warped = WarpedLabels(labels, none.bool(), none, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> motion_error(warped)
        tensor([[False, False]])
    """
    failed = warped.error & (warped.photometric > CONFIRMED_ERROR)
    return (failed | ~warped.known).all(0)


def inpaint(motion: Tensor, error: Tensor, teacher_probs: Tensor) -> Tensor:
    """Apply warp-inpaint (paper), y^WI_j = (1 - E_j) y^M_j + E_j y^S_j, to probabilities.

    Args:
        motion: y^M_j, (C, H, W).
        error: E_j, (H, W) bool.
        teacher_probs: y^S_j, the teacher's probabilities (C, H, W).

    Returns:
        y^WI_j, (C, H, W) float32.

    Example:
        >>> inpaint(torch.zeros(1, 1, 2), torch.tensor([[False, True]]), torch.ones(1, 1, 2))
        tensor([[[0., 1.]]])
    """
    return torch.where(error, teacher_probs.float(), motion.float())
