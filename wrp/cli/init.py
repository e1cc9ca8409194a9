"""`wrp init`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wrp.options import PICKS


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "init",
        help="lay out a folder for a video, and pick frames of it to label",
        description="Lay out FOLDER for a video or a folder of frames: frames/, labels/ and a classes.yaml to fill in. "
        "Pick frames to label, at least one in each scene, and write them to FOLDER/to-label as PNGs.",
    )
    verb.add_argument("folder", metavar="FOLDER", help="new folder, or one to which another clip is added")
    verb.add_argument("video", metavar="VIDEO", help="video, or folder of the frames of one clip")
    verb.add_argument("-n", type=int, default=5, help="number of frames to label (default: %(default)s)")
    verb.add_argument(
        "--by",
        default="even",
        choices=PICKS,
        help="pick frames at even distances, or those that look most different (default: %(default)s)",
    )
    verb.add_argument("--frames", metavar="START:STOP:STEP", help="pick from these frames alone, as for autolabel")
    verb.add_argument("--classes", help="names of the classes, comma-separated (default: to be filled in)")
    verb.add_argument("--copy", action="store_true", help="copy the video instead of linking to it")
    verb.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> None:
    from wrp.runs.config import split_names
    from wrp.runs.starting import lay_out

    folder = Path(options.folder)
    classes = split_names(options.classes or "")
    pictures = lay_out(folder, Path(options.video), options.n, options.by, options.frames, classes, options.copy)
    clip = pictures[0].parent.name
    only = f" --frames {options.frames}" if options.frames else ""
    print(f"frames to label: {', '.join(picture.stem for picture in pictures)}")
    print(f"pictures of them: {pictures[0].parent}")
    print("next:")
    steps = [
        f"draw their labels in any program, and put them into {folder / 'labels' / clip} under the same names",
        *(() if classes else (f"list the classes in {folder / 'classes.yaml'}",)),
        f"wrp data check {folder}{only}",
        f"wrp autolabel {folder}{only} --out {folder}-labelled",
    ]
    print("\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1)))
