"""Standard streams that are closed, read by nobody, or of an encoding without the characters of a name."""

from __future__ import annotations

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
