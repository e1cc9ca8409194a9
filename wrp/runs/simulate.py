"""Simulate labelling with suggestions: add held-out labels frame by frame, propagate again, and score."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wrp.data.index import ClipIndex, intervals
from wrp.data.items import IntervalItems
from wrp.errors import WrpError
from wrp.io.images import read_frame_label
from wrp.io.progress import make_bar
from wrp.io.stopping import check_stop
from wrp.io.tables import markdown_table
from wrp.metrics.segmentation import confusion, mean_iou
from wrp.propagation.module import PropagationModule
from wrp.structures import Clip, Interval
from wrp.suggest.suggestions import Doubt, choose, doubt, gaps_of

SEEDS = (0, 1, 2)

Labels = list[tuple[int, int]]
"""The frames that were labelled: number of the clip, and index in the clip."""

Frames = dict[int, tuple[Doubt, Tensor | None]]
"""Expected error of each frame, by index, and its confusion matrix if its label was held out at the start."""


class Replay:
    """Propagate the clips of a run from its keyframes and any further labels, and score the result.

    The score is mIoU over the frames whose labels were held out at the start, so that all strategies are scored on the
    same frames. Frames that were labelled meanwhile count as right, as they would be in the data set that is made.
    Results of intervals are cached.

    Args:
        index: The clips, with held-out labels.
        module: Propagates by one method.

    Raises:
        WrpError: If no label is held out.

    Example:
        >>> from pathlib import Path
        >>> from wrp.structures import Frame, LabelMap
        >>> clip = Clip("street", (Frame("0", Path("0.png")),) * 9, keyframes=(0, 8), held_out=(2, 4, 6))
        >>> classes = LabelMap(ids=(0,), names=("road",), colors=((128, 64, 128),))
        >>> replay = Replay(ClipIndex(Path("."), "folder", classes, (clip,)), PropagationModule(1, ["copy"]))
        >>> replay.uniform(1), replay.clips([(0, 4)])[0].keyframes
        ([(0, 4)], (0, 4, 8))
    """

    def __init__(self, index: ClipIndex, module: PropagationModule) -> None:
        if not any(clip.held_out for clip in index.clips):
            raise WrpError(
                f"none of the labels in {index.root} is held out, so nothing can be scored: make the run with "
                "`wrp autolabel --label-every K`, or with --keyframes FILE"
            )
        self.index = index
        self.module = module
        self._known: dict[tuple[Any, ...], Frames] = {}

    def clips(self, labels: Labels) -> list[Clip]:
        """Return the clips with these labels as further keyframes."""
        clips = []
        for number, clip in enumerate(self.index.clips):
            given = {index for of, index in labels if of == number}
            clips.append(replace(clip, keyframes=tuple(sorted({*clip.keyframes, *given}))))
        return clips

    def frames(self, clip: Clip) -> Frames:
        """Propagate a clip: expected error of each frame, and confusion matrix of those held out at the start."""
        frames: Frames = {}
        for interval in intervals(clip):
            key = (clip.name, interval.start, interval.stop, interval.keyframes)
            if key not in self._known:
                self._known[key] = self._propagate(interval)
            frames |= self._known[key]
        return frames

    @torch.inference_mode()
    def _propagate(self, interval: Interval) -> Frames:
        clip, label_map = interval.clip, self.index.label_map
        items = IntervalItems([clip], label_map)
        found: Frames = {}
        for result in self.module.session(items[items.intervals.index(interval)]):
            matrix = None
            if result.index in clip.held_out:
                truth = read_frame_label(clip.frames[result.index], label_map)
                matrix = confusion(result.labels, truth, label_map.num_classes)
            found[result.index] = (doubt(result.confidence), matrix)
        return found

    def score(self, labels: Labels) -> float:
        """Return the mIoU in percent after these labels were added."""
        frames = [frame for clip in self.clips(labels) for frame in self.frames(clip).values()]
        matrices = [matrix for _, matrix in frames if matrix is not None]
        return 100 * float(mean_iou(torch.stack(matrices).sum(0)))

    def suggested(self, before: Labels, count: int) -> Labels:
        """Return the labels and ``count`` more, which :func:`~wrp.suggest.suggestions.choose` picks after a run."""
        gaps, numbers = [], []
        for number, clip in enumerate(self.clips(before)):
            doubts = {i: found for i, (found, _) in self.frames(clip).items()}
            found = gaps_of(clip, doubts, clip.held_out)
            gaps += found
            numbers += [number] * len(found)
        return before + _numbered(numbers, choose(gaps, count))

    def uniform(self, count: int) -> Labels:
        """Return ``count`` labels, evenly spaced in the intervals between the keyframes."""
        cut = [(number, interval) for number, clip in enumerate(self.index.clips) for interval in intervals(clip)]
        numbers, found = zip(*cut, strict=True)
        return _numbered(numbers, spread(found, count))

    def at_random(self, seed: int) -> Labels:
        """Return all frames with a held-out label in random order."""
        frames = [(number, i) for number, clip in enumerate(self.index.clips) for i in clip.held_out]
        return random.Random(seed).sample(frames, len(frames))


def _numbered(numbers: Sequence[int], chosen: Sequence[Sequence[int]]) -> Labels:
    return [(number, i) for number, indices in zip(numbers, chosen, strict=True) for i in indices]


def spread(gaps: Sequence[Interval], count: int) -> list[list[int]]:
    """Choose evenly spaced frames of each interval among those with a held-out label.

    Each further label goes to the interval with the frame that is farthest from any label; the labels of an interval
    are then spread evenly over it.

    Args:
        gaps: The intervals.
        count: Number of frames to choose, fewer where there are not as many.

    Returns:
        Indices in the clip of the chosen frames of each interval.

    Example:
        >>> clip = Clip("street", frames=(), keyframes=(0, 8), held_out=(1, 2, 3, 4, 5, 6, 7))
        >>> spread([Interval(clip, 0, 9, previous=0, next=8)], 3)
        [[2, 4, 6]]
    """
    free = [[i for i in range(gap.start, gap.stop) if i in gap.clip.held_out] for gap in gaps]
    counts = [0] * len(gaps)
    for _ in range(min(count, sum(map(len, free)))):
        farthest = [_reach(gap, n) if n < len(f) else -1.0 for gap, f, n in zip(gaps, free, counts, strict=True)]
        counts[int(np.argmax(farthest))] += 1
    chosen: list[list[int]] = []
    for gap, frames, number in zip(gaps, free, counts, strict=True):
        chosen.append([])
        for place in range(1, number + 1):
            wanted = _place(gap, place, number)
            chosen[-1].append(min((abs(i - wanted), i) for i in frames if i not in chosen[-1])[1])
    return chosen


def _reach(gap: Interval, number: int) -> float:
    """Return the distance from a label of the farthest frame of an interval with this number of further labels."""
    first, last = gap.span
    return (last - first) / (2 * number + len(gap.keyframes))


def _place(gap: Interval, place: int, number: int) -> float:
    """Return where label ``place`` (from 1) of ``number`` lies; half a step is left at an end without keyframe."""
    first, last = gap.span
    step = 2 * _reach(gap, number)
    return last - step * place if gap.previous is None else first + step * place


def curves(replay: Replay, count: int, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Compute mIoU after 0 … ``count`` further labels for each strategy of choosing them.

    ``suggested``: all at once, as a user gets them; ``one by one``: with a new run after each label; ``uniform``:
    evenly spaced; ``random <seed>``: at random, once for each seed.

    Args:
        replay: The run.
        count: Largest number of further labels.
        seeds: Seeds of the random choices.

    Returns:
        ``{"start": mIoU, "miou": {strategy: [after 1, …]}, "chosen": {strategy: [["<clip>/<frame>", …], …]}}``, mIoU
        in percent.

    Raises:
        WrpError: If ``count`` is below 1 or above the number of held-out frames.
    """
    held_out = sum(len(clip.held_out) for clip in replay.index.clips)
    if not 1 <= count <= held_out:
        raise WrpError(f"the number of frames to add, -n, must be in 1 … {held_out}, the held-out frames, got {count}")
    ways: dict[str, list[Labels]] = {way: [] for way in ("suggested", "one by one", "uniform")}
    ways |= {f"random {seed}": [replay.at_random(seed)[:n] for n in range(1, count + 1)] for seed in seeds}
    miou: dict[str, list[float]] = {way: [] for way in ways}
    with make_bar(total=count * len(ways), desc="Labelling", unit="run") as progress:
        start = replay.score([])
        one_by_one: Labels = []
        for n in range(1, count + 1):
            one_by_one = replay.suggested(one_by_one, 1)
            ways["suggested"].append(replay.suggested([], n))
            ways["one by one"].append(one_by_one)
            ways["uniform"].append(replay.uniform(n))
            for way, labels in ways.items():
                miou[way].append(round(replay.score(labels[n - 1]), 2))
                check_stop()
                progress.update()
    clips = replay.index.clips
    names = {
        way: [[f"{clips[number].name}/{clips[number].frames[i].stem}" for number, i in labels] for labels in steps]
        for way, steps in ways.items()
    }
    return {"start": round(start, 2), "miou": miou, "chosen": names}


def curve_table(result: dict[str, Any]) -> str:
    """Return the result of :func:`curves` as Markdown; of the random ones, mean and standard deviation.

    Example:
        >>> print(curve_table({"start": 60, "miou": {"suggested": [72], "random 0": [64], "random 1": [66]}}))
        | labels added | suggested | random, 2 seeds |
        |--------------|----------:|----------------:|
        | 0            |     60.00 |           60.00 |
        | 1            |     72.00 |    65.00 ± 1.41 |
    """
    miou = dict(result["miou"])
    drawn = [miou.pop(way) for way in list(miou) if way.startswith("random")]
    rows = [["0", *[f"{result['start']:.2f}"] * (len(miou) + 1)]]
    for n, scores in enumerate(zip(*miou.values(), strict=True)):
        here = [curve[n] for curve in drawn]
        deviation = statistics.stdev(here) if len(here) > 1 else 0.0
        cells = [f"{score:.2f}" for score in scores]
        rows.append([str(n + 1), *cells, f"{statistics.mean(here):.2f} ± {deviation:.2f}"])
    return markdown_table(["labels added", *miou, f"random, {len(drawn)} seeds"], rows)
