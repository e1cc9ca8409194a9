"""Export of a run's labels to another program's files."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType

from wrp.data.run import open_run
from wrp.errors import WrpError
from wrp.exchange import camvid, cityscapes, coco, cvat, labelstudio, voc
from wrp.exchange.base import Export, RunFrame
from wrp.io.manifest import read_manifest
from wrp.io.outputs import WRITTEN, check_output
from wrp.io.writing import new_folder

logger = logging.getLogger("wrp")

FORMATS = {"coco": coco, "cvat": cvat, "cityscapes": cityscapes, "voc": voc, "camvid": camvid}
"""Formats that are written and read."""

READ_ONLY = {"labelstudio": labelstudio}
"""Formats that are only read."""


def find_format(name: str, reading: bool = False) -> ModuleType:
    """Return the module of a format that is written or, for ``reading``, read; raise WrpError if there is none.

    Example:
        >>> find_format("labelstudio", reading=True).__name__
        'wrp.exchange.labelstudio'
    """
    known = FORMATS | READ_ONLY if reading else FORMATS
    if name in known:
        return known[name]
    expected = f"expected one of {', '.join(known)}"
    if name in READ_ONLY:
        raise WrpError(f"the format {name!r} is only read, by `wrp import`, and not written; {expected}")
    raise WrpError(f"unknown format {name!r}, {expected}")


def export_labels(run: Path, format_name: str, out: Path, min_confidence: float = 0.0, images: bool = True) -> int:
    """Write the labels of a run in another program's format, as ``wrp export`` does.

    Args:
        run: Folder of a run, finished or not.
        format_name: A name in :data:`FORMATS`.
        out: Folder to write, new or empty; it appears only once it is complete.
        min_confidence: Pixels below this confidence, in [0, 1], are exported as unlabelled.
        images: Whether to copy the frames, too.

    Returns:
        The number of frames.

    Raises:
        WrpError: If there is no such run, nothing is labelled yet, or the format cannot hold the classes.
    """
    chosen = find_format(format_name)
    if not 0 <= min_confidence <= 1:
        raise WrpError(f"--min-confidence must be in 0 … 1, got {min_confidence}")
    index = open_run(run)
    check_output(out, "export", index.reads | {(run / folder).resolve() for folder in WRITTEN})
    written = {(entry.clip, entry.frame): run / entry.label for entry in read_manifest(run)}
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
    with new_folder(out) as folder:
        chosen.write(Export(index.label_map, frames, min_confidence, images), folder)
    return len(frames)
