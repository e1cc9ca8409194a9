"""Loaders against raw decoding: frames per second of the same files, in one run.

    python experiments/benchmarks/loader.py camvid davis2016

Raw decoding reads each frame and its label with the same functions, in one process and without augmentation. Nothing
that was decoded is kept, as a clip of many more frames would have it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterable
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from unittest import mock

from measuring import Rows, table
from torch.utils.data import DataLoader

import wrp.data.items as items_module
from wrp import VideoDataModule
from wrp.data.datasets import open_index
from wrp.data.items import FrameItems, IntervalItems, collate_frames
from wrp.data.reading import read_image, read_label
from wrp.types import Frame


def raw(frames: list[Frame], module: VideoDataModule) -> float:
    """Frames and labels decoded per second."""
    started = time.perf_counter()
    for frame in frames:
        image = read_image(frame.image)
        if frame.label is not None:
            read_label(frame.label, module.label_map, (image.shape[1], image.shape[2]))
    return len(frames) / (time.perf_counter() - started)


def loaded(loader: Iterable[object], frames: int) -> float:
    """Frames served per second, starting the workers included."""
    started = time.perf_counter()
    for _ in loader:
        pass
    return frames / (time.perf_counter() - started)


@mock.patch.object(items_module, "FRAME_CACHE_BYTES", 0)
def measure(root: str, limit: int, repeats: int) -> Rows:
    """Rows of the table for one data set, by its first clip.

    Args:
        root: The data set.
        limit: So many frames, of a shorter clip again and again; intervals are served whole.
        repeats: Runs of each, of which the median counts.
    """
    index = open_index(root)
    module = VideoDataModule(index.label_map.num_classes, root, label_every=10)
    clip = index.clips[0]
    frames = list(islice(cycle(clip.frames), limit))
    numbered = [(clip.name, i, frame) for i, frame in enumerate(frames)]
    clips = module.index.clips[:1] * -(-limit // len(clip.frames))
    unlabelled = [Frame(frame.stem, frame.image) for clip in clips for frame in clip.frames]
    rows = []
    for name, workers in (("frames", 1), ("frames", 2), ("intervals", 1), ("intervals", 2)):
        ratios, speeds = [], []
        for _ in range(repeats):
            base = raw(frames if name == "frames" else unlabelled, module)
            if name == "frames":
                items = FrameItems(numbered, index.label_map)
                loader = DataLoader(items, 4, num_workers=workers, collate_fn=collate_frames)
                speed = loaded(loader, len(frames))
            else:
                loader = DataLoader(IntervalItems(clips, index.label_map), None, num_workers=workers)
                speed = loaded(loader, len(unlabelled))
            ratios.append(speed / base)
            speeds.append(speed)
        which = {"data": Path(root).name, "serves": name, "workers": workers}
        median = {"frames/s": statistics.median(speeds), "over raw decoding": statistics.median(ratios)}
        rows.append(which | median)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--frames", type=int, default=400, help="frames, of a shorter clip again and again")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median counts")
    options = parser.parse_args()
    rows = [row for root in options.roots for row in measure(root, options.frames, options.repeats)]
    print(table(rows))
    versions = "; ".join(f"{package} {version(package)}" for package in ("torch", "pillow", "numpy"))
    print(f"\nPython {platform.python_version()}; {versions}")


if __name__ == "__main__":
    main()
