"""`wrp data`: check a data set, generate one, or list the layouts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wrp.errors import WrpError


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    data = verbs.add_parser("data", help="check a data set, or generate one").add_subparsers(
        metavar="WHAT", required=True
    )
    check = data.add_parser("check", help="read every file of a data set and list what it contains and what is damaged")
    check.add_argument("root", help="data set, video or folder of frames; also searched for below WRP_DATA")
    check.add_argument("--layout", default="auto", help="auto or the name of a layout (default: %(default)s)")
    check.add_argument("--split", help="split of the data set (default: the layout's)")
    check.add_argument("--labels", metavar="FOLDER", help="labels of a video or of a folder of frames")
    check.add_argument("--frames", metavar="START:STOP:STEP", help="frames of each clip, as for autolabel")
    check.add_argument("--never", metavar="FILE", help="picture of what is never labelled, as for autolabel")
    check.add_argument("--threads", type=int, default=2, help="files to read in parallel (default: %(default)s)")
    check.set_defaults(run=_check)
    synthetic = data.add_parser("synthetic", help="generate street scenes with the labels of all frames")
    synthetic.add_argument("out", help="folder to write")
    synthetic.add_argument("--clips", type=int, default=1, help="number of clips (default: %(default)s)")
    synthetic.add_argument("--frames", type=int, default=49, help="frames per clip (default: %(default)s)")
    synthetic.add_argument("--size", default="448x256", metavar="WxH", help="size in pixels (default: %(default)s)")
    synthetic.add_argument("--seed", type=int, default=0, help="seed of the first clip (default: %(default)s)")
    synthetic.set_defaults(run=_synthetic)
    data.add_parser("layouts", help="list the known layouts").set_defaults(run=_layouts)


def _check(options: argparse.Namespace) -> None:
    from wrp.data.checking import check_data, describe, problems
    from wrp.data.index import narrow
    from wrp.data.layouts.registry import open_index
    from wrp.options import SelectArgs

    select = SelectArgs(labels=options.labels, frames=options.frames, never=options.never)
    index = open_index(options.root, options.layout, options.split, strict=False, labels=options.labels)
    found = check_data(narrow(index, select), options.threads)
    print(describe(found))
    if found.broken:
        raise WrpError(f"{options.root} cannot be used as it is: {problems(found)}, listed above")


def _synthetic(options: argparse.Namespace) -> None:
    from wrp.data.checking import make_synthetic, synthetic_size

    make_synthetic(Path(options.out), options.clips, options.frames, synthetic_size(options.size), options.seed)
    print(f"clips: {Path(options.out) / 'frames'}")


def _layouts(options: argparse.Namespace) -> None:
    from wrp.data.layouts.registry import layouts, summary

    for name, layout in layouts().items():
        print(f"{name}: {summary(layout)}")
