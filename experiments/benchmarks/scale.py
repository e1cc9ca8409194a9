"""Measure `wrp autolabel` on a large data set: until its first interval is labelled, or to its end with small frames.

    python experiments/benchmarks/scale.py FOLDER                               2975 clips of 30 frames of 1024×512
    python experiments/benchmarks/scale.py FOLDER --suffix .jpg --shard 1/8     as JPEG, one of eight jobs
    python experiments/benchmarks/scale.py FOLDER --whole --size 32 64          all frames, by a flow that takes no time
    python experiments/benchmarks/scale.py FOLDER --limits                      the largest of each kind, to its end

The frames of the data set, in the package's own layout, are links to the files of a few generated ones. Each run is the
real command, timed stage by stage.
Peak memory is that of the process when the stage ends, libraries included. With `--limits`, the memory in use is also
given at a tenth, at half and at the end of the labelling: it is level if it does not grow with what is done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from measuring import Rows, memory_of_this_process, size_name, table
from PIL import Image
from torch import Tensor

from wrp.cli.main import main as wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.flow.estimator import FlowEstimator
from wrp.io.label_map import read_label_map
from wrp.runs import autolabel
from wrp.structures import FramePair

STAGES = {
    "index_of": "list files",
    "check_folders": "check folders",
    "_label_hashes": "hash labels",
    "file_hashes": "sizes and times of files",
    "check_files": "check labels and headers",
    "plan": "plan",
    "_propagate": "label",
    "remove_temporary": "delete temporary files",
    "score_clips": "score",
    "write_reports": "report",
}
"""Stages by the names of their functions in :mod:`wrp.runs.autolabel`."""

ALL = "all, without imports"
TENTH, HALF, END = "at a tenth, MB", "at half, MB", "at the end, MB"


@dataclass(frozen=True)
class Limit:
    """What `--limits` measures in one run.

    Attributes:
        clips: Number of clips.
        frames: Frames of each.
        size: Their height and width.
        every: Frames from one label to the next; None: a single label in the middle of each clip.
        classes: Number of classes; None: those of the generated clip.
    """

    clips: int
    frames: int
    size: tuple[int, int]
    every: int | None = None
    classes: int | None = None


LIMITS = (
    Limit(1, 5000, (32, 64)),
    Limit(1, 20000, (32, 64)),
    Limit(1, 20000, (32, 64), every=100),
    Limit(3000, 3, (32, 64)),
    Limit(1, 100, (360, 480)),
    Limit(1, 100, (360, 480), classes=200),
    Limit(1, 20, (2160, 4096)),
)


class Still(FlowEstimator):
    """Flow that takes no time, so that everything else is measured."""

    signature = "still"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        return torch.zeros(len(frames_s), 2, *frames_s.shape[2:])


class Memory:
    """Samples of the memory that this process uses while a stage runs.

    Args:
        pause: Seconds between two samples.
    """

    def __init__(self, pause: float = 0.2) -> None:
        self.pause = pause
        self.samples: list[float] = []
        self.over = Event()
        self.thread = Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self.over.wait(self.pause):
            self.samples.append(memory_of_this_process("VmRSS"))

    def __enter__(self) -> Memory:
        """Begin to sample."""
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.over.set()
        self.thread.join()
        self.samples.append(memory_of_this_process("VmRSS"))

    def row(self) -> dict[str, float]:
        """Return the memory at a tenth, at half and at the end of the time, in MB."""
        last = len(self.samples) - 1
        return {TENTH: self.samples[last // 10], HALF: self.samples[last // 2], END: self.samples[last]}


def many_classes(source: Path, count: int) -> Path:
    """Write labels of so many classes, in blocks, for the frames of a generated clip; return their folder."""
    folder = source / f"labels{count}"
    for label in sorted(source.glob("labels/*/*.png")):
        with Image.open(label) as image:
            width, height = image.size
        across = math.ceil(math.sqrt(count))
        rows, columns = np.arange(height) * across // height, np.arange(width) * across // width
        ids = ((rows[:, None] * across + columns) % count).astype(np.uint8)
        path = folder / label.relative_to(source / "labels")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(path)
    classes = [f"  - {{id: {i}, name: class {i}, color: [{i}, {255 - i}, 128]}}" for i in range(count)]
    (folder / "classes.yaml").write_text("\n".join(["classes:", *classes]) + "\n", encoding="utf-8")
    return folder


def linked_clips(
    folder: Path,
    clips: int,
    frames: int,
    size: tuple[int, int],
    suffix: str = ".png",
    every: int | None = None,
    classes: int | None = None,
) -> Path:
    """Make a data set of links to the frames of one generated clip, with labels of some frames of each clip.

    Args:
        folder: Where to write; what a call with the same arguments has made there is used again.
        clips: Number of clips.
        frames: Number of frames of each.
        size: Their height and width.
        suffix: Format of the frames.
        every: Frames from one label to the next; None: a single label in the middle of each clip.
        classes: Number of classes; None: those of the generated clip.

    Returns:
        The data set.
    """
    more = "".join(f"-{number}" for number in (every, classes) if number is not None)
    root = folder / f"{clips}x{frames}-{size[0]}x{size[1]}{suffix}{more}"
    if (root / "classes.yaml").is_file():
        return root
    source = generate_folder(folder / f"source-{size[0]}x{size[1]}", num_frames=8, height=size[0], width=size[1])
    images = sorted((source / "frames").glob("*/*.png"))
    of_source = source / "labels" if classes is None else many_classes(source, classes)
    labels = {image.stem: of_source / image.parent.name / image.name for image in images}
    if suffix != ".png":
        for image in images:
            Image.open(image).convert("RGB").save(image.with_suffix(suffix), quality=90)
    labelled = {frames // 2} if every is None else range(0, frames, every)
    for clip in range(clips):
        places = [root / kind / f"clip{clip:05d}" for kind in ("frames", "labels")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for frame in range(frames):
            image = images[abs((frame + 7) % 14 - 7)]  # to and fro
            (places[0] / f"{frame:05d}{suffix}").symlink_to(image.with_suffix(suffix).resolve())
            if frame in labelled:
                (places[1] / f"{frame:05d}.png").symlink_to(labels[image.stem].resolve())
    place_of_classes = source if classes is None else of_source
    shutil.copy(place_of_classes / "classes.yaml", root / "classes.yaml")  # last: it tells that the tree is whole
    return root


def measure(root: Path, out: Path, more: list[str]) -> Rows:
    """Measure a run in a process of its own.

    Args:
        root: The data set.
        out: Folder to write to.
        more: Further arguments of the command.
    """
    command = ["autolabel", str(root), f"--out={out}", "--methods=motion", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, "--timed", *command], env=environment, stdout=subprocess.PIPE)
    rows: Rows = json.loads(done.stdout.splitlines()[-1])
    return rows


def timed(arguments: list[str]) -> Rows:
    """Run `wrp` in this process and return a row for each stage that it has gone through."""
    rows: Rows = []

    def watch(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **named: Any) -> Any:
            started, spent, memory = time.perf_counter(), time.process_time(), Memory()
            try:
                with memory:
                    return work(*given, **named)
            finally:
                found = row(STAGES[name], time.perf_counter() - started, time.process_time() - spent)
                rows.append(found | memory.row())

        return watched

    for name in STAGES:
        setattr(autolabel, name, watch(name, getattr(autolabel, name)))
    started, spent = time.perf_counter(), time.process_time()
    if code := wrp(arguments):
        raise RuntimeError(f"`wrp {' '.join(arguments)}` ended with exit code {code}")
    return [*rows, row(ALL, time.perf_counter() - started, time.process_time() - spent)]


def row(stage: str, seconds: float, spent: float) -> dict[str, Any]:
    """Return the row of a stage that ends now."""
    return {"stage": stage, "s": seconds, "s of the CPU": spent, "peak, MB": memory_of_this_process("VmHWM")}


def limits(folder: Path, cases: Sequence[Limit] = LIMITS) -> Rows:
    """Measure large runs whose frames are all labelled, by a flow that takes no time."""
    rows: Rows = []
    for case in cases:
        root, out = linked_clips(folder, **asdict(case)), folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        found = {one["stage"]: one for one in measure(root, out, ["--flow=scale.Still"])}
        label, whole = found["label"], found[ALL]
        names = {"clips": case.clips, "frames of each": case.frames, "size": size_name(case.size)}
        names |= {"a label every": case.every, "classes": read_label_map(root / "classes.yaml").num_classes}
        per_frame = 1000 * whole["s of the CPU"] / (case.clips * case.frames)
        times = {"s": whole["s"], "s of the CPU": whole["s of the CPU"], "ms of the CPU a frame": per_frame}
        rows.append(names | times | {"peak, MB": whole["peak, MB"]} | {key: label[key] for key in (TENTH, HALF, END)})
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--timed"]:
        print(json.dumps(timed(sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where data set and run are written")
    parser.add_argument("--clips", type=int, default=2975)
    parser.add_argument("--frames", type=int, default=30, help="of each clip (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--suffix", choices=(".png", ".jpg"), default=".png", help="format of the frames")
    parser.add_argument("--whole", action="store_true", help="label all frames, by a flow that takes no time")
    parser.add_argument("--limits", action="store_true", help="measure the largest of each kind instead")
    parser.add_argument("--case", type=int, choices=range(len(LIMITS)), help="with --limits: only this one")
    options, more = parser.parse_known_args()
    if options.limits:
        cases = LIMITS if options.case is None else [LIMITS[options.case]]
        print(table(limits(options.folder.resolve(), cases)))
        return
    more += ["--flow=scale.Still"] if options.whole else ["--limit=1"]
    root = linked_clips(options.folder, options.clips, options.frames, tuple(options.size), options.suffix)
    out = options.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    named = ("stage", "s", "s of the CPU", "peak, MB")
    print(table([{key: one[key] for key in named} for one in measure(root, out, more)]))


if __name__ == "__main__":
    main()
