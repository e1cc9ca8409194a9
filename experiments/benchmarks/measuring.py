"""Tools of all benchmarks: times, fitted exponents, and rows that become tables."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from wrp.io.tables import markdown_table

Rows = list[dict[str, Any]]
"""Rows of a table, each a mapping from column head to cell: a name, a number, several numbers, or None."""


def least(repetitions: int, *works: Callable[[], object]) -> list[float]:
    """Measure the shortest time of each piece of work in seconds; the pieces take turns."""
    return [min(times) for times in timed(repetitions, *works)]


def timed(repetitions: int, *works: Callable[[], object]) -> list[list[float]]:
    """Measure all times of each piece of work in seconds; the pieces take turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for work, kept in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            kept.append(time.perf_counter() - started)
    return times


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """Fit the power of the size with which a cost grows, by least squares of logarithms.

    0 is a constant cost, 1 a linear one; None where it cannot be fitted.
    """
    if min(costs) <= 0 or min(sizes) == max(sizes):
        return None
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def use_threads(count: int) -> None:
    """Set the number of threads of torch and OpenCV, and of the processes that are started from here."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)


def in_fresh_process(script: str, *arguments: object) -> Any:
    """Run a script in a process of its own, with as many threads, and return the JSON that it prints."""
    given = [*map(str, arguments), f"--threads={torch.get_num_threads()}"]
    run = subprocess.run([sys.executable, script, *given], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def memory_of_this_process(what: str) -> float:
    """``VmRSS``, the present memory, or ``VmHWM``, its peak, in MB; ru_maxrss of a child begins with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def table(rows: Rows) -> str:
    """Format rows as a Markdown table."""
    return markdown_table(list(rows[0]), [[cell(value) for value in row.values()] for row in rows])


def cell(value: Any) -> str:
    """Format a cell; several numbers become their mean and standard deviation."""
    if isinstance(value, list):
        known = [number for number in value if number is not None]
        if len(known) < 2:
            return cell(known[0] if known else None)
        return f"{cell(statistics.mean(known))} ± {statistics.stdev(known):.2f}"
    if isinstance(value, float) and math.isfinite(value):
        digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
        return f"{value:.{digits}f}"
    return "–" if value is None or isinstance(value, float) else str(value)


def size_name(size: Sequence[int]) -> str:
    """Width × height of (height, width)."""
    return f"{size[1]}×{size[0]}"
