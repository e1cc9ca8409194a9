"""Measure `wrp autolabel` on a large data set: until its first interval is labelled, or to its end with small frames.

    python experiments/benchmarks/scale.py FOLDER                               2975 clips of 30 frames of 1024×512
    python experiments/benchmarks/scale.py FOLDER --suffix .jpg --shard 1/8     as JPEG, one of eight jobs
    python experiments/benchmarks/scale.py FOLDER --whole --size 32 64          all frames, by a flow that takes no time

The frames of the data set, in the package's own layout, are links to the files of a few generated ones. Each run is the
real command, timed stage by stage.
Peak memory is that of the process when the stage ends, libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Rows, memory_of_this_process, table
from PIL import Image
from torch import Tensor

from wrp.cli.main import main as wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.flow.estimator import FlowEstimator
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


class Still(FlowEstimator):
    """Flow that takes no time, so that everything else is measured."""

    signature = "still"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        return torch.zeros(len(frames_s), 2, *frames_s.shape[2:])


def linked_clips(folder: Path, clips: int, frames: int, size: tuple[int, int], suffix: str = ".png") -> Path:
    """Make a data set of links to the frames of one generated clip, with one label in the middle of each clip.

    Args:
        folder: Where to write; what a call with the same arguments has made there is used again.
        clips: Number of clips.
        frames: Number of frames of each.
        size: Their height and width.
        suffix: Format of the frames.

    Returns:
        The data set.
    """
    root = folder / f"{clips}x{frames}-{size[0]}x{size[1]}{suffix}"
    if (root / "classes.yaml").is_file():
        return root
    source = generate_folder(folder / f"source-{size[0]}x{size[1]}", num_frames=8, height=size[0], width=size[1])
    images = sorted((source / "frames").glob("*/*.png"))
    labels = {image.stem: source / "labels" / image.parent.name / image.name for image in images}
    if suffix != ".png":
        for image in images:
            Image.open(image).convert("RGB").save(image.with_suffix(suffix), quality=90)
    for clip in range(clips):
        places = [root / kind / f"clip{clip:05d}" for kind in ("frames", "labels")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for frame in range(frames):
            image = images[abs((frame + 7) % 14 - 7)]  # to and fro
            (places[0] / f"{frame:05d}{suffix}").symlink_to(image.with_suffix(suffix).resolve())
            if frame == frames // 2:
                (places[1] / f"{frame:05d}.png").symlink_to(labels[image.stem].resolve())
    shutil.copy(source / "classes.yaml", root / "classes.yaml")  # last: it tells that the tree is whole
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
            started, spent = time.perf_counter(), time.process_time()
            try:
                return work(*given, **named)
            finally:
                rows.append(row(STAGES[name], time.perf_counter() - started, time.process_time() - spent))

        return watched

    for name in STAGES:
        setattr(autolabel, name, watch(name, getattr(autolabel, name)))
    started, spent = time.perf_counter(), time.process_time()
    if code := wrp(arguments):
        raise RuntimeError(f"`wrp {' '.join(arguments)}` ended with exit code {code}")
    return [*rows, row("all, without imports", time.perf_counter() - started, time.process_time() - spent)]


def row(stage: str, seconds: float, spent: float) -> dict[str, Any]:
    """Return the row of a stage that ends now."""
    return {"stage": stage, "s": seconds, "s of the CPU": spent, "peak, MB": memory_of_this_process("VmHWM")}


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
    options, more = parser.parse_known_args()
    more += ["--flow=scale.Still"] if options.whole else ["--limit=1"]
    root = linked_clips(options.folder, options.clips, options.frames, tuple(options.size), options.suffix)
    out = options.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    print(table(measure(root, out, more)))


if __name__ == "__main__":
    main()
