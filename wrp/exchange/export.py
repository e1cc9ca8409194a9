"""Export of a run's labels to another program's files."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from wrp.data.checking import file_hashes
from wrp.data.run import open_run
from wrp.errors import WrpError, check_choice
from wrp.exchange import (
    camvid,
    cityscapes,
    coco,
    coco_panoptic,
    cvat,
    cvat_video,
    labelme,
    labelstudio,
    parquet,
    voc,
    webdataset,
    yolo_seg,
)
from wrp.exchange.base import Export, RunFrame
from wrp.exchange.choosing import choose
from wrp.io.manifest import read_manifest
from wrp.io.outputs import WRITTEN, check_output
from wrp.io.resuming import resumed_folder
from wrp.io.writing import checksum
from wrp.structures import Clip, Frame

logger = logging.getLogger("wrp")

FORMATS = {
    "coco": coco,
    "coco-panoptic": coco_panoptic,
    "cvat": cvat,
    "cvat-video": cvat_video,
    "label-studio": labelstudio,
    "labelme": labelme,
    "yolo-seg": yolo_seg,
    "cityscapes": cityscapes,
    "voc": voc,
    "camvid": camvid,
}
"""Formats that are written and read."""

WRITTEN_ONLY = {"webdataset": webdataset, "parquet": parquet}
"""Formats of training elsewhere, which are written alone: nobody corrects labels in them."""


def find_format(name: str) -> ModuleType:
    """Return the module of a format that is read; raise WrpError if there is none of this name.

    Example:
        >>> find_format("label-studio").__name__
        'wrp.exchange.labelstudio'
    """
    if name in WRITTEN_ONLY:
        raise WrpError(f"{name} is written, not read; import what a program for labelling has made")
    check_choice("format", name, FORMATS)
    return FORMATS[name]


def export_labels(
    run: Path,
    format_name: str,
    out: Path,
    min_confidence: float = 0.0,
    images: bool = True,
    only: str | None = None,
) -> int:
    """Write the labels of a run in another program's format, as ``wrp export`` does.

    Args:
        run: Folder of a run, finished or not.
        format_name: A name in :data:`FORMATS` or :data:`WRITTEN_ONLY`.
        out: Folder to write, new or empty; it appears only once it is complete. The same call again goes on where one
            was stopped: frames and labels that it has written are not written again.
        min_confidence: Pixels below this confidence, in [0, 1], are exported as unlabelled.
        images: Whether to copy the frames, too.
        only: Which frames are exported, see :func:`~wrp.exchange.choosing.choose`; None: all.

    Returns:
        The number of frames.

    Raises:
        WrpError: If there is no such run, nothing is labelled yet, or the format cannot hold the classes.
    """
    chosen = WRITTEN_ONLY.get(format_name) or find_format(format_name)
    if not 0 <= min_confidence <= 1:
        raise WrpError(f"--min-confidence must be in 0 … 1, got {min_confidence}")
    index = open_run(run, by_network=True)
    check_output(out, "export", index.reads | {(run / folder).resolve() for folder in WRITTEN})
    entries = choose(run, read_manifest(run), only)
    written = {(entry.clip, entry.frame): run / entry.label for entry in entries}
    frames = tuple(
        RunFrame(
            clip.name,
            frame.stem,
            frame.image,
            written[clip.name, frame.stem],
            run / "confidence" / clip.name / f"{frame.stem}.png",
        )
        for clip in index.clips
        for frame in clip.frames
        if (clip.name, frame.stem) in written
    )
    if not frames:
        raise WrpError(f"{run} holds no labels of {index.root} yet; run `wrp autolabel` again to go on")
    logger.info("Exporting %d of %d frames", len(frames), sum(len(clip.frames) for clip in index.clips))
    made_of = {
        "run": str(run.resolve()),
        "format": format_name,
        "images": images,
        "min_confidence": min_confidence,
        "chosen": checksum("\n".join(f"{frame.clip}/{frame.stem}" for frame in frames).encode()),
        "classes": repr(index.label_map),
        "frames": file_hashes(index.clips),
        "labels": _label_hashes(frames),
        "version": version("wrp"),
    }
    with resumed_folder(out, made_of) as folder:
        chosen.write(Export(index.label_map, frames, min_confidence, images), folder)
    return len(frames)


def _label_hashes(frames: tuple[RunFrame, ...]) -> dict[str, str]:
    """Hash names, sizes and times of labels and confidence, which somebody may change after an export was stopped."""
    labels = tuple(Frame(frame.name, frame.label) for frame in frames)
    confidence = tuple(Frame(frame.name, frame.confidence) for frame in frames)
    return file_hashes([Clip("labels", labels), Clip("confidence", confidence)])
