"""A user's script under the strictest check of mypy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import wrp


def check(folder: Path, script: str, cache: Path, *modules: str) -> subprocess.CompletedProcess[str]:
    """Check a script as if the package were installed: what is wrong in it is not the user's to hear."""
    (folder / "mine.py").write_text(script)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        "mine.py",
        *modules,
    ]
    environment = {**os.environ, "MYPYPATH": str(Path(wrp.__file__).parents[1])}
    return subprocess.run(
        [*command, f"--cache-dir={cache}"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
