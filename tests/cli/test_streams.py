"""Standard streams that are closed, read by nobody, or of an encoding without the characters of a name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import make_folder
from tests.forked import wrp


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("streams") / "data", {"straße": 2})


def shell(command: str) -> subprocess.CompletedProcess[str]:
    found = command.replace("wrp", f"{sys.executable} -m wrp", 1)
    return subprocess.run(["bash", "-c", found], capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.parametrize(
    ("to", "code"), [("2>&-", 0), (">&-", 0), (">&- 2>&-", 0), ("| true; exit ${PIPESTATUS[0]}", 141)]
)
def test_streams_that_nobody_reads_are_no_error(to: str, code: int, root: Path) -> None:
    done = shell(f"wrp data check {root} {to}")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_what_an_encoding_lacks_is_shown_escaped(root: Path) -> None:
    done = wrp("data", "check", str(root), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_a_mistake_with_control_characters_is_shown_escaped() -> None:
    done = wrp("data", "check", "nix\x1b[2J")
    assert done.returncode == 2
    assert "nix\\x1b[2J" in done.stderr


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_spin_for_a_shorter_time_unless_the_user_says_otherwise(given: dict[str, str], spins: str) -> None:
    code = "import atexit, os, wrp.__main__\natexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT')))\n"
    code += "import sys; sys.argv = ['wrp', '--version']; wrp.__main__.run()"
    chosen = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=chosen | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == spins
