"""Measure what suggested frames are worth: mIoU after each further label, compared with even spacing and chance.

python experiments/suggest/curve.py camvid -n 6
python experiments/suggest/curve.py davis2016 --clips bear bus car-turn surf swing --half -n 8

At the start, the first and the last label of each clip are keyframes. The labels that are added are divided among all
clips.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import ClipIndex, keep_labels, select_clips
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.io.images import read_image, read_label
from wrp.io.label_map import write_label_map
from wrp.io.writing import write_image, write_json, write_label
from wrp.options import SelectArgs
from wrp.runs.simulate import Replay, curve_table, curves


def halved(index: ClipIndex, folder: Path) -> ClipIndex:
    """Write the clips at half their size to a folder."""
    for clip in index.clips:
        for frame in tqdm(clip.frames, desc=f"Halving {clip.name}", unit="frame"):
            image = Image.fromarray(read_image(frame.image).permute(1, 2, 0).numpy())
            name = Path(clip.name, f"{frame.stem}.png")
            write_image(folder / "frames" / name, image.reduce(2))
            if frame.label is not None:
                write_label(
                    folder / "labels" / name,
                    read_label(frame.label, index.label_map).numpy()[::2, ::2],
                    index.label_map,
                )
    write_label_map(index.label_map.written, folder / "classes.yaml")
    return open_index(folder, "folder")


def only_ends(index: ClipIndex) -> ClipIndex:
    """Keep the first and the last label of each clip as keyframes and hold out all others."""
    ends = [keep_labels(c, {c.frames[c.keyframes[0]].stem, c.frames[c.keyframes[-1]].stem}) for c in index.clips]
    return replace(index, clips=tuple(ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("--clips", nargs="+", help="only these clips")
    parser.add_argument("-n", type=int, default=6, help="labels to add")
    parser.add_argument("--fine", action="store_true", help="the package's default flow, some seven times as slow")
    parser.add_argument("--half", action="store_true", help="work on frames of half the size")
    parser.add_argument("--flow-cache", help="folder of flows to share between runs")
    parser.add_argument("--out", type=Path, help="JSON file for the curves")
    options = parser.parse_args()
    index = select_clips(open_index(options.root), SelectArgs(options.clips))
    with tempfile.TemporaryDirectory(prefix="wrp-suggest-") as folder:
        index = only_ends(halved(index, Path(folder)) if options.half else index)
        estimator = DIS() if options.fine else DIS("medium", 1.0)
        flow = FlowCache(estimator, options.flow_cache or str(Path(folder, "flow")))
        result = curves(Replay(index, PropagationModule(index.label_map.num_classes, ["motion"], flow=flow)), options.n)
    if options.out is not None:
        write_json(options.out, result)
    print(curve_table(result))


if __name__ == "__main__":
    main()
