"""Measure how long fresh processes take to import packages and to print the help."""

from __future__ import annotations

import statistics
import subprocess
import sys

from measuring import Rows, timed

STARTED = {
    "python": ["-c", "pass"],
    "import wrp": ["-c", "import wrp"],
    "wrp --help": ["-m", "wrp", "--help"],
    "import torch": ["-c", "import torch"],
    "import pytorch_lightning": ["-c", "import pytorch_lightning"],
}


def measure(repeats: int) -> Rows:
    """Measure the seconds of each, the median of several runs that take turns; a first run is not counted."""
    works = [lambda c=command: _run(c) for command in STARTED.values()]
    for work in works:
        work()
    seconds = [statistics.median(runs) for runs in timed(repeats, *works)]
    torch, lightning = seconds[-2:]
    return [
        {"": name, "s": one, "over import torch": one / torch, "over import pytorch_lightning": one / lightning}
        for name, one in zip(STARTED, seconds, strict=True)
    ]


def _run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
