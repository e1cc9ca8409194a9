"""Two jobs that share the intervals of one data set against one job, a CPU core each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import Rows

from wrp.data.datasets.generated import generate_folder


def two_clips(folder: Path, frames: int, size: tuple[int, int]) -> Path:
    """Two generated clips with labels at both ends: two intervals of the same length, and nothing to score."""
    root = generate_folder(folder / "two-clips", num_frames=frames, height=size[0], width=size[1], clips=2)
    for path in (root / "labels").glob("*/*.png"):
        if int(path.stem) not in (0, frames - 1):
            path.unlink()
    return root


def label(root: Path, out: Path, shards: Sequence[str | None], cores: set[int] | None = None) -> float:
    """Seconds until some jobs of `wrp autolabel` are done; each has a core, or together they have ``cores``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if cores is None else str(len(cores))}
    command = [sys.executable, "-m", "wrp", "autolabel", str(root), f"--out={out}", "--methods=motion"]
    usable = sorted(os.sched_getaffinity(0))
    started = time.perf_counter()
    jobs = []
    for number, shard in enumerate(shards):
        with out.with_name(f"{out.name}-{number}.log").open("w") as log:
            job = subprocess.Popen(
                [*command, *([f"--shard={shard}"] if shard else [])], env=environment, stdout=log, stderr=log
            )
        # Before it has started its threads, and before OpenCV counts the cores.
        os.sched_setaffinity(job.pid, cores or {usable[number % len(usable)]})
        jobs.append(job)
    codes = [job.wait() for job in jobs]
    seconds = time.perf_counter() - started
    if any(codes):
        log = out.with_name(f"{out.name}-{next(i for i, code in enumerate(codes) if code)}.log")
        raise RuntimeError(f"jobs of `wrp autolabel` ended with exit codes {codes}:\n{log.read_text()[-2000:]}")
    return seconds


def measure(folder: Path, frames: int, size: tuple[int, int]) -> Rows:
    """Frames per second of one job and of two, the start of the processes and the report included.

    Args:
        folder: Where to write.
        frames: Frames of each of two clips.
        size: Their height and width.
    """
    root = two_clips(folder, frames, size)
    both = set(sorted(os.sched_getaffinity(0))[:2])
    seconds = {
        "one job, one core": label(root, folder / "one", [None]),
        "one job, two cores": label(root, folder / "one-on-both", [None], both),
        "two jobs, a core each": label(root, folder / "two", ["1/2", "2/2"]),
    }
    alone = seconds["one job, one core"]
    return [
        {"": name, "s": one, "frames/s": 2 * frames / one, "over one job, one core": alone / one}
        for name, one in seconds.items()
    ]
