"""Suggest which frames to label next (ours): those whose labels reduce the expected error of the others most."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from wrp.data.index import ClipIndex, intervals
from wrp.errors import WrpError
from wrp.io.images import read_confidence
from wrp.io.manifest import Entry, read_manifest
from wrp.io.progress import progress
from wrp.io.tables import markdown_table
from wrp.structures import Clip, Interval

logger = logging.getLogger("wrp")

# Errors grow with this power of the drift length: the distance of a random walk is the square root of its variance.
GROWTH = 0.5

Doubt = tuple[float, float]
"""Expected ratio of wrong pixels in a frame, and ratio of pixels without a label, both of all its pixels."""


@dataclass(frozen=True)
class Gap:
    """An interval between keyframes and the expected errors of its labels.

    Attributes:
        interval: The interval; the keyframes of a clip divide it into these.
        errors: Expected ratio of wrong pixels in each of its N frames, (N,) float64 in [0, 1].
        free: Indices in the clip of the frames that may be suggested.

    Example:
        >>> clip = Clip("street", frames=(), keyframes=(0, 4))
        >>> gap = Gap(Interval(clip, 0, 5, previous=0, next=4), np.array([0, 0.1, 0.2, 0.1, 0]), free=(1, 2, 3))
        >>> round(gap.total([]), 3), round(gap.total([2]), 3)
        (0.4, 0.163)
    """

    interval: Interval
    errors: np.ndarray
    free: tuple[int, ...]

    def remaining(self, labels: Collection[int]) -> np.ndarray:
        """Return the expected error of each frame, (N,), once these frames have labels: e(u) · (ℓ'(u) / ℓ(u))^½.

        ℓ and ℓ' are the drift lengths before and after; see :func:`drift_length`. The frame's own error e(u) is only
        scaled, because a difficult frame stays difficult.
        """
        frames, keyframes = range(self.interval.start, self.interval.stop), self.interval.keyframes
        before, after = drift_length(frames, keyframes), drift_length(frames, [*keyframes, *labels])
        return self.errors * (after / np.where(before > 0, before, 1)) ** GROWTH

    def total(self, labels: Collection[int]) -> float:
        """Return the sum of the remaining errors over the frames; a completely wrong frame counts as 1."""
        return float(self.remaining(labels).sum())


@dataclass(frozen=True)
class Suggestion:
    """A frame that is worth a label.

    Attributes:
        clip: Its clip.
        index: Its index in the clip.
        confidence: Mean confidence of its propagated label.
        gain: By how much a label here reduces the sum of the expected errors, if the suggestions ranked before it are
            labelled, too; a completely wrong frame counts as 1.

    Example:
        >>> from wrp.structures import Frame
        >>> clip = Clip("street", tuple(Frame(f"{i:05d}", Path(f"{i:05d}.png")) for i in range(9)), keyframes=(0, 8))
        >>> suggestion = Suggestion(clip, index=3, confidence=0.9, gain=0.25)
        >>> suggestion.stem, suggestion.distance
        ('00003', 3)
    """

    clip: Clip
    index: int
    confidence: float
    gain: float

    @property
    def stem(self) -> str:
        """Name of the frame."""
        return self.clip.frames[self.index].stem

    @property
    def distance(self) -> int:
        """Frames to the nearest keyframe of the run."""
        return min(abs(self.index - keyframe) for keyframe in self.clip.keyframes)


def drift_length(frames: Sequence[int], keyframes: Sequence[int]) -> np.ndarray:
    """Return how far the labels of N frames may have drifted, (N,) float64 in frames.

    d₁ d₂ / (d₁ + d₂), with d₁ and d₂ the distances to the keyframes before and after: the variance of a random walk
    that is fixed at both ends. Where there is a keyframe on one side only, the distance to it; 0 at keyframes.

    Example:
        >>> drift_length([0, 1, 2, 4, 6], [0, 4]).tolist()
        [0.0, 0.75, 1.0, 0.0, 2.0]
    """
    ends, at = np.array(sorted(keyframes)), np.array(frames)
    earlier = np.append(-np.inf, ends)[np.searchsorted(ends, at, side="right")]
    later = np.append(ends, np.inf)[np.searchsorted(ends, at, side="left")]
    with np.errstate(divide="ignore"):
        return 1 / (1 / (at - earlier) + 1 / (later - at))


def doubt(confidence: Tensor) -> Doubt:
    """Return the expected ratio of wrong pixels and the ratio of unlabelled pixels of a frame.

    Args:
        confidence: (H, W) float32 in [0, 1], 0 where unlabelled.

    Example:
        >>> import torch
        >>> doubt(torch.tensor([[1.0, 0.75, 0.25, 0.0]]))
        (0.25, 0.25)
    """
    blank = confidence == 0
    return float((1 - confidence).masked_fill(blank, 0).mean()), float(blank.float().mean())


def gaps_of(clip: Clip, doubts: Mapping[int, Doubt], free: Collection[int]) -> list[Gap]:
    """Return the intervals of a clip with their expected errors.

    Args:
        clip: The clip.
        doubts: The result of :func:`doubt` for each frame, by index. Unlabelled pixels count as errors only where
            there are more of them than in a keyframe of the interval: annotators leave pixels blank on purpose.
        free: Indices of the frames that may be suggested.

    Example:
        >>> from wrp.structures import Frame
        >>> clip = Clip("street", (Frame("0", Path("0.png")),) * 3, keyframes=(0, 2))
        >>> [gap] = gaps_of(clip, {0: (0.0, 0.25), 1: (0.25, 0.5), 2: (0.0, 0.25)}, free=[1])
        >>> gap.errors.tolist(), gap.free
        ([0.0, 0.5, 0.0], (1,))
    """
    gaps = []
    for interval in intervals(clip):
        frames = range(interval.start, interval.stop)
        on_purpose = max(doubts[keyframe][1] for keyframe in interval.keyframes)
        errors = np.array([wrong + max(0.0, blank - on_purpose) for wrong, blank in (doubts[i] for i in frames)])
        gaps.append(Gap(interval, errors, tuple(i for i in frames if i in free and i not in interval.keyframes)))
    return gaps


def choose(gaps: Sequence[Gap], count: int) -> list[list[int]]:
    """Choose at most ``count`` frames such that labels on all of them leave the least expected error.

    Each further label goes to the gap that gains most by it; the labels chosen in that gap before are then moved to
    where they are best together.

    Args:
        gaps: The gaps of all clips.
        count: Number of frames to choose.

    Returns:
        Indices in the clip of the chosen frames of each gap.

    Example:
        >>> clip = Clip("street", frames=(), keyframes=(0, 4))
        >>> gap = Gap(Interval(clip, 0, 5, previous=0, next=4), np.array([0, 0.1, 0.2, 0.1, 0]), free=(1, 2, 3))
        >>> choose([gap], 1)
        [[2]]
    """
    chosen: list[list[int]] = [[] for _ in gaps]
    offers = [_one_more(gap, []) for gap in gaps]
    possible = min(count, sum(len(gap.free) for gap in gaps))
    for _ in progress(range(possible), desc="Choosing", unit="frame", leave=False, delay=1):
        gains = [g.total(c) - g.total(o) if o else -1.0 for g, c, o in zip(gaps, chosen, offers, strict=True)]
        best = int(np.argmax(gains))
        chosen[best] = offers[best]
        offers[best] = _one_more(gaps[best], chosen[best])
    return chosen


def _one_more(gap: Gap, labels: list[int]) -> list[int]:
    """Return the labels and one more, each moved to where it gains most; an empty list if no frame is left."""
    if len(labels) == len(gap.free):
        return []
    labels = [*labels, _best(gap, labels)]
    moved = True
    while moved:
        moved = False
        for label in list(labels):
            others = [other for other in labels if other != label]
            better = [*others, _best(gap, others)]
            if gap.total(better) < gap.total(labels) - 1e-9:
                labels, moved = better, True
    return labels


def _best(gap: Gap, labels: list[int]) -> int:
    return min((i for i in gap.free if i not in labels), key=lambda i: gap.total([*labels, i]))


def ranked(gaps: Sequence[Gap], chosen: Sequence[Sequence[int]]) -> list[tuple[Gap, int, float]]:
    """Rank the chosen frames: first the one that gains most, then the one that gains most in addition, and so on.

    Args:
        gaps: The gaps.
        chosen: Indices of the chosen frames of each gap.

    Returns:
        Gap, index in the clip and gain of each frame.

    Example:
        >>> clip = Clip("street", frames=(), keyframes=(0, 4))
        >>> gap = Gap(Interval(clip, 0, 5, previous=0, next=4), np.array([0, 0.1, 0.2, 0.1, 0]), free=(1, 2, 3))
        >>> [(index, round(gain, 3)) for _, index, gain in ranked([gap], [[1, 2]])]
        [(2, 0.237), (1, 0.082)]
    """
    order: list[tuple[Gap, int, float]] = []
    pairs = [(gap, index) for gap, indices in zip(gaps, chosen, strict=True) for index in indices]
    while pairs:
        before = {id(gap): [i for other, i, _ in order if other is gap] for gap, _ in pairs}
        gains = [gap.total(before[id(gap)]) - gap.total([*before[id(gap)], i]) for gap, i in pairs]
        best = int(np.argmax(gains))
        order.append((*pairs.pop(best), gains[best]))
    return order


def suggest(index: ClipIndex, out: Path, count: int) -> list[Suggestion]:
    """Suggest frames of a run to label next, from the confidence that it has written; held-out labels are not used.

    Args:
        index: The clips, with the keyframes of the run.
        out: Folder of the run.
        count: Number of frames that can be labelled.

    Returns:
        The suggestions, best first.

    Raises:
        WrpError: If ``count`` is below 1, the run is not finished, its keyframes have changed, or every frame has a
            label already.
    """
    if count < 1:
        raise WrpError(f"the number of frames to suggest, -n, must be at least 1, got {count}")
    entries: dict[str, dict[int, Entry]] = {clip.name: {} for clip in index.clips}
    for entry in read_manifest(out):
        entries.get(entry.clip, {})[entry.index] = entry
    gaps = []
    for clip in index.clips:
        _check_run(clip, entries[clip.name], out)
        folder = out / "confidence" / clip.name
        frames = progress(clip.frames, desc=f"Reading {clip.name}", unit="frame")
        doubts = {i: doubt(read_confidence(folder / f"{frame.stem}.png")) for i, frame in enumerate(frames)}
        gaps += gaps_of(clip, doubts, set(range(len(clip.frames))) - set(clip.keyframes))
    free = sum(len(gap.free) for gap in gaps)
    if not free:
        raise WrpError(f"every frame of the clips of {out} has a label already: there is nothing to suggest")
    if free < count:
        logger.info("-n is %d, but only %d frames have no label", count, free)
    return [
        Suggestion(gap.interval.clip, i, entries[gap.interval.clip.name][i].mean_confidence, gain)
        for gap, i, gain in ranked(gaps, choose(gaps, count))
    ]


def _check_run(clip: Clip, entries: dict[int, Entry], out: Path) -> None:
    """Raise WrpError unless a run has labelled every frame of a clip from the present keyframes."""
    if missing := [frame.stem for i, frame in enumerate(clip.frames) if i not in entries]:
        raise WrpError(
            f"{out} has no label of {clip.name}/{missing[0]} ({len(missing)} frames are missing): finish the run "
            "of `wrp autolabel` first"
        )
    keyframes = {i for i, entry in entries.items() if entry.method == "keyframe"}
    if changed := sorted(keyframes ^ set(clip.keyframes)):
        raise WrpError(
            f"the label of {clip.name}/{clip.frames[changed[0]].stem} was added or removed after {out} was made: run "
            "`wrp autolabel` again with another --out, and use that run"
        )


def suggestion_table(suggestions: Sequence[Suggestion]) -> str:
    """Return the suggestions as a Markdown table, best first.

    Example:
        >>> print(suggestion_table([]))
        | rank | clip | frame | index | distance | confidence | expected gain |
        |------|-----:|------:|------:|---------:|-----------:|--------------:|
    """
    rows = [
        [str(rank), s.clip.name, s.stem, str(s.index), str(s.distance), f"{s.confidence:.3f}", f"{s.gain:.3f}"]
        for rank, s in enumerate(suggestions, 1)
    ]
    return markdown_table(["rank", "clip", "frame", "index", "distance", "confidence", "expected gain"], rows)
