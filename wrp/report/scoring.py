"""Score written labels on held-out frames; they are read from disk, so that propagation never has held-out labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wrp.data.index import ClipIndex
from wrp.io.images import read_confidence, read_frame_label, read_label
from wrp.io.outputs import method_folder
from wrp.io.progress import progress
from wrp.metrics.masks import boundary_accuracy, region_similarity
from wrp.metrics.propagation import PropagationScore, Truth
from wrp.structures import Clip, LabelMap


def prediction_path(out: Path, methods: tuple[str, ...], method: str, clip: str, stem: str) -> Path:
    """Return where the label of a frame by one of the methods of a run was written.

    Args:
        out: Folder of the run.
        methods: The methods of the run; the last one is in ``labels``.
        method: One of them.
        clip: Name of the clip.
        stem: Name of the frame.

    Example:
        >>> prediction_path(Path("out"), ("motion", "refine"), "motion", "street", "00007").as_posix()
        'out/methods/motion/street/00007.png'
    """
    folder = out / "labels" if method == methods[-1] else method_folder(out, method)
    return folder / clip / f"{stem}.png"


@dataclass
class Scores:
    """The scores of the methods on the held-out frames of some clips.

    Attributes:
        overall: The scores over all of them.
        clips: The scores of each clip by method, see :func:`join_scores`.
        masks: Region J and contour F of DAVIS at each frame, in [0, 1], by clip and method; empty unless labels are
            masks of one object.

    Example:
        >>> Scores(PropagationScore(2, ["motion"])).clips
        {}
    """

    overall: PropagationScore
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)


def score_clips(index: ClipIndex, clips: Sequence[Clip], methods: tuple[str, ...], out: Path) -> Scores:
    """Score every method on the held-out frames of some clips.

    Args:
        index: The clips of the run.
        clips: Those of them that are scored.
        methods: The methods that were run; the last one is in ``labels``.
        out: Folder of the run.

    Raises:
        DataError: If a file of the run is missing or damaged.
    """
    label_map = index.label_map
    found = Scores(PropagationScore(label_map.num_classes, methods))
    for clip in progress(clips, desc="Scoring", unit="clip", disable=not any(clip.held_out for clip in clips)):
        of_clip = PropagationScore(label_map.num_classes, methods)
        similar: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
        for i in clip.held_out:
            labels, truth = _frame(clip, i, methods, out, label_map)
            of_clip.update_frame(labels, truth)
            # The protocol of DAVIS leaves out the first and the last frame of a sequence.
            if index.binary and 0 < i < len(clip.frames) - 1:
                wanted = truth.labels.numpy() == 1
                for method, (prediction, _) in labels.items():
                    mask = prediction.numpy() == 1
                    similar[method].append((region_similarity(mask, wanted), boundary_accuracy(mask, wanted)))
        found.overall.merge_state(of_clip)
        found.clips[clip.name] = _named(of_clip, label_map)
        if index.binary:
            found.masks[clip.name] = similar
    return found


def join_scores(index: ClipIndex, methods: tuple[str, ...], parts: Iterable[Scores]) -> dict[str, Any]:
    """Join the scores of all clips of a run.

    Args:
        index: The clips with their held-out frames.
        methods: The methods that were run.
        parts: The scores, each of some of the clips.

    Returns:
        ``{"overall": {method: scores}, "clips": {clip: {method: scores}}}`` with the scores of
        :meth:`~wrp.metrics.propagation.PropagationScore.summarize`; for masks of one object also ``j`` and ``f`` of
        DAVIS, in percent.
    """
    overall = PropagationScore(index.label_map.num_classes, methods)
    found = Scores(overall)
    for part in parts:
        overall.merge_state(part.overall)
        found.clips |= part.clips
        found.masks |= part.masks
    clips = {clip.name: found.clips[clip.name] for clip in index.clips}
    result = _named(overall, index.label_map)
    if index.binary:
        for method in methods:
            means = [_with_masks(clips[clip][method], found.masks[clip][method]) for clip in clips]
            _with_masks(result[method], [pair for mean in means for pair in mean])
    return {"overall": result, "clips": clips}


def _frame(
    clip: Clip, index: int, methods: tuple[str, ...], out: Path, label_map: LabelMap
) -> tuple[dict[str, tuple[Tensor, Tensor | None]], Truth]:
    """Read the labels of a held-out frame and its ground truth; only the last method has its confidence on disk."""
    frame = clip.frames[index]
    truth = read_frame_label(frame, label_map)
    size = (truth.shape[0], truth.shape[1])
    labels: dict[str, tuple[Tensor, Tensor | None]] = {}
    for method in methods:
        path = prediction_path(out, methods, method, clip.name, frame.stem)
        labels[method] = read_label(path, label_map.written, size), None
    confidence = read_confidence(out / "confidence" / clip.name / f"{frame.stem}.png", size)
    labels[methods[-1]] = (labels[methods[-1]][0], confidence)
    return labels, Truth(truth, clip.distance(index))


def _named(score_: PropagationScore, label_map: LabelMap) -> dict[str, Any]:
    result = {}
    for method in score_.methods:
        # Not by compute(): clips without held-out frames are allowed here, and there is nothing to synchronise.
        scores = score_.summarize(method)
        result[method] = scores | {"per_class": dict(zip(label_map.names, scores["per_class"], strict=True))}
    return result


def _with_masks(scores: dict[str, Any], values: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Add the mean J and F, in percent, to the scores; return the mean as a list of one pair, to average over clips."""
    if not values:
        scores["j"] = scores["f"] = None
        return []
    j, f = np.mean(values, 0)
    scores["j"], scores["f"] = round(100 * float(j), 2), round(100 * float(f), 2)
    return [(float(j), float(f))]
