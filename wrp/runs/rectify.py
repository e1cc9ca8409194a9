"""CISC-R on video (ours): weight propagated labels by their consistency with the keyframes of the clip."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wrp.data.index import ClipIndex
from wrp.errors import DataError, WrpError
from wrp.geometry.consistency import to_unit
from wrp.io.images import read_frame_label, read_image, read_label
from wrp.io.manifest import read_manifest
from wrp.io.progress import progress
from wrp.io.writing import write_image, write_json
from wrp.runs.processes import Processes
from wrp.segmentation.module import SegmentationModule, load_segmenter
from wrp.segmentation.network import with_features
from wrp.selftraining.cisc_r import classes_shown, image_reliability, masked_pool, rectify_by_anchor
from wrp.structures import Clip

logger = logging.getLogger("wrp")

WEIGHTS = "rectified"
DRIFT = "drift.json"


def rectify(index: ClipIndex, out: Path, teacher: str, processes: Processes | None = None) -> dict[int, float]:
    """Measure how well each pixel's label agrees with the keyframes, and how this changes with the distance.

    For each frame that a run has labelled, ``rectified/<clip>/<stem>.png`` is w of
    :func:`~wrp.selftraining.cisc_r.rectify_by_anchor`, with the nearest keyframe as anchor, in 8-bit grey.
    ``drift.json`` holds the mean R of :func:`~wrp.selftraining.cisc_r.image_reliability` at each distance: where R
    rises, labels begin to drift.

    Args:
        index: The clips, with the keyframes of the run.
        out: Folder of the run.
        teacher: Checkpoint of a SegmentationModule whose features are compared.
        processes: The processes that share the frames; None: this one alone.

    Returns:
        The drift curve: R by distance to the nearest keyframe in frames.

    Raises:
        WrpError: If the run, a frame or the teacher is missing or does not fit the others.
    """
    module: SegmentationModule = load_segmenter(teacher, index.label_map.num_classes)
    processes = processes if processes is not None else Processes()
    module = module.to(processes.device)
    clips = {clip.name: clip for clip in index.clips}
    prototypes: dict[tuple[str, int], dict[int, Tensor]] = {}
    entries = [e for e in read_manifest(out) if e.clip in clips and e.keyframes and not e.is_given]
    # Stretches of frames, as those near one keyframe share its prototypes.
    size, rank = processes.size, processes.rank
    start, stop = (len(entries) * number // size for number in (rank, rank + 1))
    mine: list[tuple[int, float]] = []
    for entry in progress(entries[start:stop], desc="Rectifying", unit="frame"):
        clip = clips[entry.clip]
        anchor = min(entry.keyframes, key=lambda a: abs(a - entry.index))
        key = (clip.name, anchor)
        if key not in prototypes:
            prototypes[key] = _prototypes(module, clip, anchor, index)
        features = _features(module, clip, entry.index)
        labels = read_label(out / entry.label, index.label_map.written)
        weights = rectify_by_anchor(labels, features, prototypes[key])
        picture = Image.fromarray((weights.numpy() * 255).round().astype(np.uint8))
        write_image(out / WEIGHTS / Path(entry.label).relative_to("labels"), picture)
        anchors = _anchor_matrix(prototypes[key], index.label_map.num_classes)
        mine.append((abs(anchor - entry.index), image_reliability(features, labels, anchors)))
    drift: dict[int, list[float]] = defaultdict(list)
    for distance, value in (found for part in processes.gather(mine) for found in part):
        drift[distance].append(value)
    if not drift:
        raise DataError(f"{out} holds no propagated labels of {', '.join(clips)}")
    # R is infinite, and left out, where the keyframe shows none of the classes of a frame.
    told = {distance: [value for value in values if math.isfinite(value)] for distance, values in sorted(drift.items())}
    curve = {distance: float(np.mean(values)) for distance, values in told.items() if values}
    processes.first(lambda: write_json(out / DRIFT, curve))
    return curve


def _features(module: SegmentationModule, clip: Clip, index: int) -> Tensor:
    with torch.inference_mode():
        image = to_unit(read_image(clip.frames[index].image)[None].to(module.device))
        return with_features(module.inference_model, image)[1][0].cpu().clone()


def _prototypes(module: SegmentationModule, clip: Clip, anchor: int, index: ClipIndex) -> dict[int, Tensor]:
    """Return the prototype v_c of each class that covers enough of a keyframe."""
    frame, classes = clip.frames[anchor], index.label_map.num_classes
    if frame.label is None:
        raise WrpError(f"frame {frame.stem} of clip {clip.name} was a keyframe of the run, but has no label now")
    truth, features = read_frame_label(frame, index.label_map), _features(module, clip, anchor)
    return {c: masked_pool(features[None], (truth == c)[None])[0] for c in classes_shown(truth, classes)}


def _anchor_matrix(prototypes: dict[int, Tensor], num_classes: int) -> Tensor:
    width = len(next(iter(prototypes.values()))) if prototypes else 1
    return torch.stack([prototypes.get(c, torch.zeros(width)) for c in range(num_classes)])
