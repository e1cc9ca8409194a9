"""Measure what a corrected keyframe costs: the whole run again, or one that continues it, in seconds.

    python experiments/propagation/continuing.py --out runs/continuing

A scene is generated, whose every third frame is a keyframe, 50 intervals. It is labelled with new networks; then one
keyframe in the middle is corrected, and the run is continued with the networks as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wrp.cli.main import main as wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.io.tables import markdown_table
from wrp.io.writing import write_image

EVERY = 3
STAGES = ("teacher", "refiner", "propagate", "total")


def correct(label: Path) -> None:
    """Give a fifth of the rows of a label in the middle the class of the first pixel."""
    with Image.open(label) as image:
        palette, ids = image.getpalette(), np.array(image)
    rows = slice(2 * len(ids) // 5, 3 * len(ids) // 5)
    ids[rows] = ids[0, 0]
    corrected = Image.fromarray(ids)
    if palette is not None:
        corrected.putpalette(palette)
    write_image(label, corrected)


def run(*arguments: str) -> dict[str, Any]:
    """Run `wrp autolabel` and return its metrics."""
    assert wrp(["autolabel", *arguments]) == 0
    content: dict[str, Any] = json.loads(Path(arguments[arguments.index("--out") + 1], "metrics.json").read_text())
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, label, correct, continue, and print a table of the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the scene and the runs, new")
    parser.add_argument("--intervals", type=int, default=50, help="number of intervals (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 448), metavar=("H", "W"), help="of the frames")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="further arguments of wrp autolabel")
    options = parser.parse_args(arguments)
    height, width = options.size
    frames = EVERY * options.intervals + 1
    root = generate_folder(Path(options.out, "scene"), num_frames=frames, height=height, width=width)
    kept = ["--keyframes", str(Path(options.out, "keyframes.txt"))]
    labels = sorted((root / "labels").glob("*/*.png"))[::EVERY]
    Path(kept[1]).write_text("".join(f"{label.parent.name}/{label.stem}\n" for label in labels))
    command = [str(root), *kept, *options.options]
    first = run(*command, "--out", str(Path(options.out, "first")))
    correct(labels[len(labels) // 2])
    second = run(*command, "--out", str(Path(options.out, "second")), "--continue", str(Path(options.out, "first")))
    rows = [
        [name, *(f"{found['seconds'][stage]:.0f}" for stage in STAGES), str(made)]
        for name, found, made in (
            ("the whole run", first, options.intervals),
            ("continued", second, options.intervals - second["continued"]["intervals"]["kept"]),
        )
    ]
    header = ["seconds", *(f"{stage}" for stage in STAGES), "intervals labelled"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
