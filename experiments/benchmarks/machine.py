"""Describe the machine and the software of a benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from wrp.io.versions import versions


def machine() -> dict[str, Any]:
    """Hardware, threads, load, versions, and the commit if there is one."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "commit": commit(),
        "processor": _after("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory": memory(),
        "GPUs": gpus or "none",
        "system": platform.platform(),
        "load at the start": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def memory() -> str | None:
    """Read the memory, rounded to a tenth of a GB: what the system itself takes differs from start to start."""
    found = _after("/proc/meminfo", "MemTotal")
    return found and f"{int(found.split()[0]) * 1024 / 1e9:.1f} GB"


def commit() -> str | None:
    """Read the commit of the sources, with a note if they have changed since; None if there is none."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return None
    if run.returncode:
        return None
    return run.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def _after(path: str, key: str) -> str | None:
    """Read the value of the first line ``key: value`` of one of Linux's files."""
    file = Path(path)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
