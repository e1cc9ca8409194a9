"""Which frames to label next (ours): those whose labels leave the least error to be expected in the others."""

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

# The power of the drift length with which errors grow: a random walk is as far away as the root of its variance.
GROWTH = 0.5

Doubt = tuple[float, float]
"""Of a frame: the expected share of wrong pixels among all, and the share without a label."""


@dataclass(frozen=True)
class Gap:
    """An interval and how wrong its labels are expected to be.

    Attributes:
        interval: The interval; every clip is cut into them by its keyframes.
        errors: Expected share of wrong pixels of each of its frames, (N,) float64 in [0, 1].
        free: Indices in the clip of the frames that may be suggested.
    """

    interval: Interval
    errors: np.ndarray
    free: tuple[int, ...]

    def remaining(self, labels: Collection[int]) -> np.ndarray:
        """The error of each frame, (N,), once these frames have labels: e(u) · (ℓ'(u) / ℓ(u))^½.

        ℓ and ℓ' are the drift lengths before and after. e(u) is the frame's own error: what was hard about it stays.
        """
        frames, keyframes = range(self.interval.start, self.interval.stop), self.interval.keyframes
        before, after = drift_length(frames, keyframes), drift_length(frames, [*keyframes, *labels])
        return self.errors * (after / np.where(before > 0, before, 1)) ** GROWTH

    def total(self, labels: Collection[int]) -> float:
        """The sum of the remaining errors, in frames that would be wrong all over."""
        return float(self.remaining(labels).sum())


@dataclass(frozen=True)
class Suggestion:
    """A frame that is worth a label.

    Attributes:
        clip: Its clip.
        index: Its index in the clip.
        confidence: Mean confidence of its propagated label.
        gain: By how much a label here lowers the sum of the expected errors, on top of the suggestions before it, in
            frames that would be wrong all over.
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
    """How far the labels of frames can have drifted, (N,) float64 in frames.

    d₁ d₂ / (d₁ + d₂), with d₁ and d₂ the distances to the keyframes before and after: the variance of a random walk
    that is held at both ends. d₁ where there is but one keyframe; 0 at keyframes.
    """
    ends, at = np.array(sorted(keyframes)), np.array(frames)
    earlier = np.append(-np.inf, ends)[np.searchsorted(ends, at, side="right")]
    later = np.append(ends, np.inf)[np.searchsorted(ends, at, side="left")]
    with np.errstate(divide="ignore"):
        return 1 / (1 / (at - earlier) + 1 / (later - at))


def doubt(confidence: Tensor) -> Doubt:
    """Expected share of wrong pixels of a frame, and share without a label, by its confidence (H, W) in [0, 1]."""
    blank = confidence == 0
    return float((1 - confidence).masked_fill(blank, 0).mean()), float(blank.float().mean())


def gaps_of(clip: Clip, doubts: Mapping[int, Doubt], free: Collection[int]) -> list[Gap]:
    """The intervals of a clip with their expected errors.

    Args:
        clip: The clip.
        doubts: Of each of its frames. Pixels without a label are no error as long as a keyframe beside has so many,
            too: people leave them blank on purpose.
        free: Indices of the frames that may be suggested.
    """
    gaps = []
    for interval in intervals(clip):
        frames = range(interval.start, interval.stop)
        on_purpose = max(doubts[keyframe][1] for keyframe in interval.keyframes)
        errors = np.array([wrong + max(0.0, blank - on_purpose) for wrong, blank in (doubts[i] for i in frames)])
        gaps.append(Gap(interval, errors, tuple(i for i in frames if i in free and i not in interval.keyframes)))
    return gaps


def choose(gaps: Sequence[Gap], count: int) -> list[list[int]]:
    """The frames of each gap that leave the least error if all of them get a label, ``count`` at most.

    Each goes to the gap that gains most by one more label, and those within a gap make room for it.
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
    """The labels and one more, each moved to where it gains most beside the others; none if no frame is left."""
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
    """Gap, index and gain of the chosen frames: that first which gains most beside those before it."""
    order: list[tuple[Gap, int, float]] = []
    pairs = [(gap, index) for gap, indices in zip(gaps, chosen, strict=True) for index in indices]
    while pairs:
        before = {id(gap): [i for other, i, _ in order if other is gap] for gap, _ in pairs}
        gains = [gap.total(before[id(gap)]) - gap.total([*before[id(gap)], i]) for gap, i in pairs]
        best = int(np.argmax(gains))
        order.append((*pairs.pop(best), gains[best]))
    return order


def suggest(index: ClipIndex, out: Path, count: int) -> list[Suggestion]:
    """Rank the frames of a run that are worth a label, from what it has written; held-out labels are not looked at.

    Args:
        index: The clips, with the keyframes of the run.
        out: Folder of the run.
        count: How many frames one could label.

    Raises:
        WrpError: If ``count`` is below 1, the run is not complete or not of these keyframes, or no frame is unlabelled.
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
        logger.info("%d frames were asked for, but only %d have no label", count, free)
    return [
        Suggestion(gap.interval.clip, i, entries[gap.interval.clip.name][i].mean_confidence, gain)
        for gap, i, gain in ranked(gaps, choose(gaps, count))
    ]


def _check_run(clip: Clip, entries: dict[int, Entry], out: Path) -> None:
    """Raise WrpError unless a run has labelled every frame of a clip, from the labels that there are now."""
    if missing := [frame.stem for i, frame in enumerate(clip.frames) if i not in entries]:
        raise WrpError(
            f"{out} has no label of {clip.name}/{missing[0]} ({len(missing)} frames are missing): run `wrp autolabel` "
            "to its end first"
        )
    keyframes = {i for i, entry in entries.items() if entry.method == "keyframe"}
    if changed := sorted(keyframes ^ set(clip.keyframes)):
        raise WrpError(
            f"the label of {clip.name}/{clip.frames[changed[0]].stem} came or went after {out} was made: run `wrp "
            "autolabel` again, with another --out, and ask that run"
        )


def suggestion_table(suggestions: Sequence[Suggestion]) -> str:
    """The suggestions as Markdown, best first."""
    rows = [
        [str(rank), s.clip.name, s.stem, str(s.index), str(s.distance), f"{s.confidence:.3f}", f"{s.gain:.3f}"]
        for rank, s in enumerate(suggestions, 1)
    ]
    return markdown_table(["rank", "clip", "frame", "index", "distance", "confidence", "expected gain"], rows)
