"""From what each keyframe says about a frame to one label per pixel: two-keyframe blend and inpainting."""

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

# Weights of the two-keyframe blend (ours), fitted on keyframe-to-keyframe pairs by experiments/propagation/fit.py: they
# are odds. Photometric errors are mean absolute differences of colours in [0, 1].
NEARNESS = 0.2
PHOTOMETRIC_SCALE = 1 / 12
TRUST_IN_ERROR = 0.3

# Width of the Gaussian over 3×3 pixels that smooths the votes (ours), in pixels, chosen by
# experiments/propagation/fusion.py; the middle row has more than half of the weight, so a line of one pixel stays.
VOTE_SIGMA = 0.7

# Photometric error above which a motion error counts (ours), chosen by experiments/propagation/fusion.py.
CONFIRMED_ERROR = 0.05


@dataclass
class WarpedLabels:
    """What S sources, in general the labels of two keyframes along two flows each, say about one frame.

    Attributes:
        labels: (S, H, W) uint8, labels warped into the frame; 255 where a source says nothing.
        error: (S, H, W) bool, motion-error mask of each source's chain.
        photometric: (S, H, W) floating point in [0, 1], photometric error of each source.
        distance: (S,) float32, frames to each source's keyframe.
        keyframe: (S,) int64, which keyframe's label it is, counted from the earlier one.
    """

    labels: Tensor
    error: Tensor
    photometric: Tensor
    distance: Tensor
    keyframe: Tensor

    def crop(self, rows: slice, columns: slice) -> WarpedLabels:
        """The same about a part of the frame."""
        return WarpedLabels(
            self.labels[:, rows, columns],
            self.error[:, rows, columns],
            self.photometric[:, rows, columns],
            self.distance,
            self.keyframe,
        )

    def flip(self) -> WarpedLabels:
        """The same about the mirrored frame."""
        maps = (self.labels.flip(-1), self.error.flip(-1), self.photometric.flip(-1))
        return WarpedLabels(*maps, self.distance, self.keyframe)

    def to(self, device: torch.device) -> WarpedLabels:
        """The same on a device."""
        return WarpedLabels(*(values.to(device) for values in vars(self).values()))

    def of_keyframe(self, keyframe: int) -> WarpedLabels:
        """What one keyframe says."""
        mine = self.keyframe == keyframe
        return WarpedLabels(*(values[mine] for values in vars(self).values()))

    @property
    def known(self) -> Tensor:
        """(S, H, W) bool: the source has a label."""
        return self.labels != IGNORE_INDEX


def join_sources(sources: list[WarpedLabels]) -> WarpedLabels:
    """Sources of one keyframe as one."""
    return WarpedLabels(*(join(values) for values in zip(*(vars(source).values() for source in sources), strict=True)))


def gather(keyframes: list[WarpedLabels]) -> WarpedLabels:
    """What several keyframes say as one, the earlier first."""
    numbered = [replace(said, keyframe=torch.full_like(said.keyframe, i)) for i, said in enumerate(keyframes)]
    return join_sources(numbered)


def blend_weights(warped: WarpedLabels) -> Tensor:
    """Weight of each source at each pixel (ours): near, consistent and photometrically right keyframes count more.

    w_s ∝ distance^-ν · exp(-photometric / σ) · (trust in error where the motion-error mask is set), normalised over
    the sources that have a label.

    Returns:
        (S, H, W) float32 that sums to 1 over S, or to 0 where no source has a label.
    """
    near = warped.distance.clamp(min=0.5).pow(-NEARNESS)
    near = near.view(-1, 1, 1)
    in_error = (TRUST_IN_ERROR - 1) * torch.ones_like(near)
    photometric = convert(warped.photometric, torch.float32)
    # Each factor is float32 for numpy, too, where a number of Python's times a mask would be float64.
    xp, photometric, error, labels, near, in_error = backend(photometric, warped.error, warped.labels, near, in_error)
    weights = _odds(xp, photometric, PHOTOMETRIC_SCALE) * (error * in_error + 1)
    weights = weights * near * (labels != IGNORE_INDEX)
    return tensor(weights / weights.sum(0).clip(1e-12))


def _odds(xp: Any, photometric: Any, scale: float) -> Any:
    return xp.exp(photometric * (-1 / scale)) + 1e-6


def prefer_nearest(warped: WarpedLabels) -> WarpedLabels:
    """The same, but at each pixel only the nearest keyframe that has a label there; the earlier of two equals."""
    return replace(warped, labels=hide_farther(warped.labels, warped.distance, warped.keyframe))


def hide_farther(labels: Tensor, distance: Tensor, keyframe: Tensor) -> Tensor:
    """What sources say, 255 where those of a nearer keyframe, or of the earlier of two equals, say something.

    Args:
        labels: (S, H, W) uint8.
        distance: (S,), frames to the source's keyframe.
        keyframe: (S,), which keyframe's label it is.
    """
    hidden = labels.clone()
    taken = torch.zeros_like(labels[0], dtype=torch.bool)
    order = torch.stack([keyframe[s] for s in distance.argsort(stable=True)]).tolist()
    for nearest in dict.fromkeys(order):
        mine = keyframe == nearest
        hidden[mine] = labels[mine].masked_fill(taken, IGNORE_INDEX)
        taken = taken | (labels[mine] != IGNORE_INDEX).any(0)
    return hidden


def blend(warped: WarpedLabels, weights: Tensor, num_classes: int) -> Tensor:
    """Class probabilities (C, H, W) float32 by motion from weights (S, H, W); all zero where nothing is known.

    Votes are smoothed over neighbouring pixels (ours): labels are sampled at whole pixels, so each is off by up to half
    a pixel, and neighbours differently.
    """
    votes = smooth(count_votes(warped.labels, weights, num_classes))
    known = warped.known.any(0)
    return votes * (known / votes.sum(0).clamp(min=1e-12))


def blend_labels(warped: WarpedLabels, weights: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the most probable class of :func:`blend` and its probability."""
    if not serves(warped.labels, weights):
        return argmax_frame(blend(warped, weights, num_classes))
    labels, most, total = strongest(warped.labels, weights, _kernel())
    known = warped.labels.numpy().min(0) != IGNORE_INDEX  # which is the greatest
    confidence = most.numpy() * (known / total.numpy().clip(1e-12))
    confidence = np.nan_to_num(confidence.clip(0, 1, confidence), copy=False)
    return hide(labels, tensor(confidence > 0)), tensor(confidence)


def smooth(votes: Tensor) -> Tensor:
    """Votes (C, H, W) averaged over 3×3 pixels with Gaussian weights; outside of the frame there are none."""
    if serves(votes):
        return filter_rows_and_columns(votes, _kernel())
    # Sums of shifted maps: a convolution of single channels takes twenty times as long on a CPU.
    padded = functional.pad(votes, (1, 1, 1, 1))
    columns = padded[:, 1:-1] + _beside() * (padded[:, :-2] + padded[:, 2:])
    return columns[..., 1:-1] + _beside() * (columns[..., :-2] + columns[..., 2:])


def _beside() -> float:
    """Weight of the next pixel."""
    return math.exp(-0.5 / VOTE_SIGMA**2)


def _kernel() -> tuple[float, float, float]:
    return _beside(), 1.0, _beside()


def count_votes(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Weight of each class, (C, H, W) float32, of sources (S, H, W) uint8 with weights (S, H, W) float32."""
    index = labels.long().clamp(max=num_classes)  # the last row collects what has no label
    votes = torch.zeros(num_classes + 1, *index.shape[1:], dtype=torch.float32, device=index.device)
    return votes.scatter_add_(0, index, weights)[:-1]


def weighted_vote(labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The label with the greatest weight at each pixel, from ids alone.

    Args:
        labels: Labels of up to four sources, (S, H, W) uint8; 255 where a source has none.
        weights: Weight of each source, (S,), positive.

    Returns:
        Labels (H, W) uint8, 255 where no source has one, and the share of the sources that say so in the weight of all
        that have a label there, (H, W) float32; of equals, the lowest class wins.

    Raises:
        ValueError: If there are more sources, or not as many weights.
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
    # Which sources agree is a byte with a bit for each: the work is on bytes, and weights are looked up.
    xp, labels, bits = backend(labels, 2 ** torch.arange(count, dtype=torch.uint8, device=labels.device))
    chosen = highest = None
    known = xp.zeros_like(labels[0])
    for s, label in enumerate(labels):
        said = label != IGNORE_INDEX
        known = known + bits[s] * said
        # Sources before this one: where they agree with it, they have counted it.
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
    """The weight of each set of sources, which is a number with a bit for each of them."""
    return [sum(w for s, w in enumerate(weights) if subset >> s & 1) for subset in range(2 ** len(weights))]


def motion_error(warped: WarpedLabels) -> Tensor:
    """Motion-error mask E_j (H, W) bool of the blend: every source that has a label is in error.

    A source is in error where its chain failed the forward-backward test and the photometric error confirms it (ours).
    Carried along a chain, the forward-backward test alone fires on many pixels whose label is right.
    """
    failed = warped.error & (warped.photometric > CONFIRMED_ERROR)
    return (failed | ~warped.known).all(0)


def inpaint(motion: Tensor, error: Tensor, teacher_probs: Tensor) -> Tensor:
    """Warp-inpaint (paper): y^WI_j = (1 - E_j) y^M_j + E_j y^S_j, on probabilities.

    Args:
        motion: y^M_j, (C, H, W).
        error: E_j, (H, W) bool.
        semantic: y^S_j, the teacher's probabilities (C, H, W).

    Returns:
        (C, H, W) float32.
    """
    return torch.where(error, teacher_probs.float(), motion.float())
