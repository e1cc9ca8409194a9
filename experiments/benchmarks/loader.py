"""Compare loaders with raw decoding: frames per second of the same files, in one run.

    python experiments/benchmarks/loader.py camvid davis2016

Raw decoding reads each frame and its label with the same functions, in one process and without augmentation.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from measuring import Rows, table
from torch.utils.data import DataLoader

from wrp.data.index import select_clips
from wrp.data.items import FrameItems, IntervalItems, collate_frames
from wrp.data.layouts.registry import open_index
from wrp.io.images import read_image, read_label
from wrp.options import SelectArgs
from wrp.structures import Frame, LabelMap


def raw(frames: list[Frame], label_map: LabelMap) -> float:
    """Frames per second when frames and labels are only decoded."""
    started = time.perf_counter()
    for frame in frames:
        image = read_image(frame.image)
        if frame.label is not None:
            read_label(frame.label, label_map, (image.shape[1], image.shape[2]))
    return len(frames) / (time.perf_counter() - started)


def loaded(loader: Iterable[object], frames: int) -> float:
    """Frames served per second, including the start of the workers."""
    started = time.perf_counter()
    for _ in loader:
        pass
    return frames / (time.perf_counter() - started)


def measure(root: str, limit: int, repeats: int) -> Rows:
    """Measure the rows of the table for one data set, on its first clip.

    Args:
        root: The data set.
        limit: Greatest number of frames; intervals are served whole.
        repeats: Number of runs, of which the median counts.
    """
    index = open_index(root)
    clip, [sparse, *_] = index.clips[0], select_clips(index, SelectArgs(label_every=10)).clips
    frames = list(clip.frames[:limit])
    numbered = [(clip.name, i, frame) for i, frame in enumerate(frames)]
    rows = []
    for name, workers in (("frames", 1), ("frames", 2), ("intervals", 1), ("intervals", 2)):
        ratios, speeds = [], []
        for _ in range(repeats):
            read = frames if name == "frames" else [Frame(f.stem, f.image) for f in clip.frames]
            base = raw(read, index.label_map)
            if name == "frames":
                items = FrameItems(numbered, index.label_map)
                loader = DataLoader(items, 4, num_workers=workers, collate_fn=collate_frames)
                speed = loaded(loader, len(frames))
            else:
                loader = DataLoader(IntervalItems([sparse], index.label_map), None, num_workers=workers)
                speed = loaded(loader, len(clip.frames))
            ratios.append(speed / base)
            speeds.append(speed)
        which = {"data": Path(root).name, "serves": name, "workers": workers}
        median = {"frames/s": statistics.median(speeds), "over raw decoding": statistics.median(ratios)}
        rows.append(which | median)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--frames", type=int, default=400, help="greatest number of frames of a clip")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs, of which the median counts")
    options = parser.parse_args()
    rows = [row for root in options.roots for row in measure(root, options.frames, options.repeats)]
    print(table(rows))
    versions = "; ".join(f"{package} {version(package)}" for package in ("torch", "pillow", "numpy"))
    print(f"\nPython {platform.python_version()}; {versions}")


if __name__ == "__main__":
    main()
