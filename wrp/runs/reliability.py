"""ST++ on video (ours): rank the propagated frames of each clip by how reliable they are for a student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wrp.data.index import ClipIndex
from wrp.data.loaders import Packing
from wrp.data.propagated import RELIABLE
from wrp.errors import DataError
from wrp.geometry.labels import argmax_with_confidence
from wrp.io.images import read_image, read_label
from wrp.io.manifest import read_manifest
from wrp.io.progress import progress
from wrp.io.writing import write_json, write_text
from wrp.runs.processes import Processes
from wrp.segmentation.module import SegmentationModule, load_segmenter
from wrp.selftraining.st_plus_plus import split_reliable_by_clip, stability, video_reliability
from wrp.structures import Frame

# Images that a GPU predicts in one call.
BATCH = 8


def rank(
    index: ClipIndex, out: Path, networks: Sequence[Path], processes: Processes | None = None, workers: int = 0
) -> list[tuple[str, str]]:
    """Write the more reliable half of each clip's propagated frames to ``reliable.txt``, best first.

    ``reliability.json`` holds the score of every frame, see
    :func:`~wrp.selftraining.st_plus_plus.video_reliability`.

    Args:
        index: The clips, with the keyframes of the run.
        out: Folder of the run.
        networks: Checkpoints of one network during its training on labelled frames, in the order of training.
        processes: The processes that share the frames; None: this one alone.
        workers: Number of loader processes of each of them.

    Returns:
        Names of clip and frame of each reliable frame.

    Raises:
        WrpError: If the run, a frame or a network is missing or does not fit the others.
    """
    num_classes = index.label_map.num_classes
    processes = processes if processes is not None else Processes()
    modules = [load_segmenter(str(network), num_classes).to(processes.device) for network in networks]
    frames = {(clip.name, frame.stem): frame for clip in index.clips for frame in clip.frames}
    entries = [e for e in read_manifest(out) if (e.clip, e.frame) in frames and e.keyframes and not e.is_given]
    mine, shared = [], processes.part(entries)
    predicted = predict(modules, [frames[entry.clip, entry.frame] for entry in shared], workers)
    for entry, predictions in zip(progress(shared, desc="Ranking", unit="frame"), predicted, strict=True):
        propagated = read_label(out / entry.label, index.label_map.written)
        steadiness = stability(predictions, num_classes)
        mine.append(video_reliability(steadiness, predictions[-1], propagated, num_classes))
    scores = dict(zip([(entry.clip, entry.frame) for entry in entries], processes.join(mine), strict=True))
    if not scores:
        raise DataError(f"{out} holds no propagated labels of {', '.join(clip.name for clip in index.clips)}")
    reliable, _ = split_reliable_by_clip(scores)
    if processes.is_first:
        write_json(out / "reliability.json", {f"{clip}/{frame}": score for (clip, frame), score in scores.items()})
        write_text(out / RELIABLE, "".join(f"{clip}/{frame}\n" for clip, frame in reliable))
    processes.barrier()
    return reliable


class _Images(Dataset[Tensor]):
    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.frames[index].image)


def predict(modules: Sequence[SegmentationModule], frames: Sequence[Frame], workers: int = 0) -> Iterator[list[Tensor]]:
    """Predict images by several networks; a GPU takes images of one size together.

    Args:
        modules: The networks, on one device.
        frames: The images.
        workers: Number of loader processes; 0: load in the main process.

    Yields:
        For each image, its labels (H, W) uint8, class indices, by each network.
    """
    loader = DataLoader(_Images(frames), batch_size=None, num_workers=workers, collate_fn=Packing())
    together: list[Tensor] = []
    for image in loader:
        device = modules[0].device
        if together and (image.shape != together[0].shape or len(together) == (1 if device.type == "cpu" else BATCH)):
            yield from _predict(modules, together)
            together = []
        together.append(image)
    if together:
        yield from _predict(modules, together)


def _predict(modules: Sequence[SegmentationModule], images: list[Tensor]) -> Iterator[list[Tensor]]:
    with torch.inference_mode():
        batch = torch.stack(images).to(modules[0].device)
        labels = [argmax_with_confidence(module.probabilities(batch))[0].cpu() for module in modules]
    yield from map(list, zip(*labels, strict=True))
