"""`wrp export` and `wrp import`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FORMATS = "coco, coco-panoptic, cvat, cvat-video, label-studio, labelme, yolo-seg, cityscapes, voc or camvid"
WRITTEN = FORMATS.replace(" or camvid", ", camvid; for training elsewhere webdataset or parquet (Hugging Face)")
READ = FORMATS.replace("cvat,", "cvat (for images or for video),")


def add(verbs: Any) -> None:
    """Add `wrp export` to the parser of `wrp`."""
    verb = verbs.add_parser(
        "export",
        help="write a run's labels for annotation and training tools: COCO, CVAT, Label Studio, VOC …",
        description="Write the labels of a run, finished or not, in the format of another program. The same command "
        "again goes on where one was stopped.",
    )
    verb.add_argument("run_folder", metavar="DIR", help="folder of a run of autolabel")
    verb.add_argument("--format", required=True, help=WRITTEN)
    verb.add_argument("--out", required=True, metavar="PATH", help="folder to write to, new or empty")
    verb.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="P", help="leave pixels below this confidence unlabelled"
    )
    verb.add_argument(
        "--images", choices=("none", "copy"), default="copy", help="whether to copy the frames (default: %(default)s)"
    )
    verb.add_argument(
        "--only",
        choices=("changed", "suggested", "keyframes"),
        help="export only frames whose label was corrected in DIR or differs from that of the run that DIR continues; "
        "those in suggest.txt; or keyframes (default: all)",
    )
    verb.set_defaults(run=_export)


def add_import(verbs: Any) -> None:
    """Add `wrp import` to the parser of `wrp`."""
    verb = verbs.add_parser(
        "import",
        help="import corrected labels into a data set, or into the labels of a video",
        description="Import labels that were exported and corrected into ROOT/labels, where the next run uses them as "
        "keyframes; or into the folder of labels that a run of a video was given by --labels. Everything is checked "
        "first: either all labels are written or none.",
    )
    verb.add_argument("source", metavar="EXPORTED", help="folder, ZIP archive or file of labels")
    verb.add_argument("--format", required=True, help=READ)
    verb.add_argument(
        "--into",
        required=True,
        metavar="ROOT",
        help="data set with frames/, and with classes.yaml unless its labels hold class indices; or the folder of "
        "labels of a video or of a folder of frames, of which --changed-from, or the list of --frames, names a run",
    )
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("--frames", metavar="FILE", help="import the frames listed in FILE, one CLIP/FRAME per line")
    which.add_argument("--changed-from", metavar="DIR", help="import the labels that differ from those of this run")
    verb.add_argument(
        "--clip",
        metavar="NAME",
        help="the clip of names that name none, such as frame_000005; not needed where only one clip fits",
    )
    verb.add_argument("--force", action="store_true", help="replace existing labels")
    verb.set_defaults(run=_import)


def _export(options: argparse.Namespace) -> None:
    from wrp.exchange.export import export_labels
    from wrp.io.writing import follow_links

    out, run = follow_links(Path(options.out)), Path(options.run_folder)
    frames = export_labels(run, options.format, out, options.min_confidence, options.images == "copy", options.only)
    print(f"{frames} labels: {out}")


def _import(options: argparse.Namespace) -> None:
    from wrp.exchange.importing import import_labels

    imported = import_labels(
        Path(options.source),
        options.format,
        Path(options.into),
        Path(options.frames) if options.frames is not None else None,
        Path(options.changed_from) if options.changed_from is not None else None,
        options.force,
        options.clip,
    )
    for name in imported:
        print(name)
