"""ST++ on video (ours): rank the propagated frames of each clip by how reliable they are for a student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wrp.data.index import ClipIndex
from wrp.data.propagated import RELIABLE
from wrp.errors import DataError
from wrp.geometry.labels import argmax_with_confidence
from wrp.io.images import read_image, read_label
from wrp.io.manifest import read_manifest
from wrp.io.progress import progress
from wrp.io.writing import write_json, write_text
from wrp.segmentation.module import SegmentationModule, load_segmenter
from wrp.selftraining.st_plus_plus import split_reliable_by_clip, stability, video_reliability
from wrp.structures import Frame


def rank(index: ClipIndex, out: Path, networks: Sequence[Path]) -> list[tuple[str, str]]:
    """Write the more reliable half of each clip's propagated frames to ``reliable.txt``, best first.

    ``reliability.json`` holds the score of every frame, see
    :func:`~wrp.selftraining.st_plus_plus.video_reliability`.

    Args:
        index: The clips, with the keyframes of the run.
        out: Folder of the run.
        networks: Checkpoints of one network during its training on labelled frames, in the order of training.

    Returns:
        Names of clip and frame of each reliable frame.

    Raises:
        WrpError: If the run, a frame or a network is missing or does not fit the others.
    """
    num_classes = index.label_map.num_classes
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = [load_segmenter(str(network), num_classes).to(device) for network in networks]
    frames = {(clip.name, frame.stem): frame for clip in index.clips for frame in clip.frames}
    scores = {}
    for entry in progress(read_manifest(out), desc="Ranking", unit="frame"):
        key = (entry.clip, entry.frame)
        if key in frames and entry.keyframes and not entry.is_given:
            predictions = [predict(module, frames[key]) for module in modules]
            propagated = read_label(out / entry.label, index.label_map.written)
            steadiness = stability(predictions, num_classes)
            scores[key] = video_reliability(steadiness, predictions[-1], propagated, num_classes)
    if not scores:
        raise DataError(f"{out} holds no propagated labels of {', '.join(clip.name for clip in index.clips)}")
    reliable, _ = split_reliable_by_clip(scores)
    write_json(out / "reliability.json", {f"{clip}/{frame}": score for (clip, frame), score in scores.items()})
    write_text(out / RELIABLE, "".join(f"{clip}/{frame}\n" for clip, frame in reliable))
    return reliable


def predict(module: SegmentationModule, frame: Frame) -> Tensor:
    """Predict the labels (H, W) uint8, class indices, of an image."""
    with torch.inference_mode():
        labels, _ = argmax_with_confidence(module.probabilities(read_image(frame.image)[None].to(module.device)))
    return labels[0].cpu()
