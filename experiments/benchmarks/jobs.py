"""Compare two jobs that divide the intervals of one data set (``--shard``) with one job; each job has one CPU core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import Rows

from wrp.data.synthetic.folder import generate_folder


def two_clips(folder: Path, frames: int, size: tuple[int, int]) -> Path:
    """Make two generated clips with labels at both ends: two intervals of the same length, and nothing to score."""
    root = generate_folder(folder / "two-clips", num_frames=frames, height=size[0], width=size[1], clips=2)
    for path in (root / "labels").glob("*/*.png"):
        if int(path.stem) not in (0, frames - 1):
            path.unlink()
    return root


def label(root: Path, out: Path, shards: Sequence[Sequence[str]], cores: set[int] | None = None) -> float:
    """Run jobs of `wrp autolabel` at the same time and return the seconds until all are done.

    Args:
        root: The data set.
        out: Folder to write to.
        shards: Further arguments of each job.
        cores: Cores that all of them may use; None: one core each.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if cores is None else str(len(cores))}
    command = [sys.executable, "-m", "wrp", "autolabel", str(root), f"--out={out}", "--methods=motion"]
    usable = sorted(os.sched_getaffinity(0))
    logs = [out.with_name(f"{out.name}-{number}.log") for number in range(len(shards))]
    started = time.perf_counter()
    jobs = []
    for number, shard in enumerate(shards):
        with logs[number].open("w") as log:
            jobs.append(subprocess.Popen([*command, *shard], env=environment, stdout=log, stderr=log))
        # Before the process starts its threads, and before OpenCV counts the cores.
        os.sched_setaffinity(jobs[-1].pid, cores or {usable[number % len(usable)]})
    codes = [job.wait() for job in jobs]
    seconds = time.perf_counter() - started
    for code, log in zip(codes, logs, strict=True):
        if code:
            raise RuntimeError(f"a job of `wrp autolabel` ended with exit code {code}:\n{log.read_text()[-2000:]}")
    return seconds


def measure(folder: Path, frames: int, size: tuple[int, int]) -> Rows:
    """Measure frames per second of one job and of two, including the start of the processes and the report.

    Args:
        folder: Where to write.
        frames: Frames of each of two clips.
        size: Their height and width.
    """
    root = two_clips(folder, frames, size)
    both = set(sorted(os.sched_getaffinity(0))[:2])
    start = label(root, folder / "nothing", [["--limit=0"]])
    seconds = {
        "one job, one core": label(root, folder / "one", [[]]),
        "one job, two cores": label(root, folder / "one-on-both", [[]], both),
        "two jobs, a core each": label(root, folder / "two", [["--shard=1/2"], ["--shard=2/2"]]),
    }
    alone = seconds["one job, one core"]
    return [
        {"": name, "s": one, "start-up, s": start, "frames/s": 2 * frames / one}
        | {"ratio": alone / one, "ratio without start": (alone - start) / (one - start)}
        for name, one in seconds.items()
    ]
