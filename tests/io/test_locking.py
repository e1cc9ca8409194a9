"""Locks of output folders, and their files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from wrp.errors import WrpError
from wrp.io import locking
from wrp.io.locking import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")


def test_the_file_of_a_lock_is_removed_where_the_command_ends_well(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(tmp_path):
        assert lock.is_file()
    assert not lock.exists()
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert lock.is_file()
    with locked(tmp_path, shared=True), locked(tmp_path, shared=True):
        pass
    assert lock.is_file()
    with locked(tmp_path):
        pass
    assert not lock.exists()


def test_a_lock_that_was_removed_before_it_could_be_had_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, lock = list[int](), locking._lock

    def slowly(handle: int, *rest: Any) -> None:
        taken.append(handle)
        if len(taken) == 1:  # whoever held it ends between the opening and the locking of the file
            (tmp_path / ".lock").unlink()
        lock(handle, *rest)

    monkeypatch.setattr(locking, "_lock", slowly)
    with locked(tmp_path):
        assert len(taken) == 2
        with pytest.raises(WrpError, match="another process is writing to"), locked(tmp_path):
            pass


def test_the_file_of_another_lock_stays(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()
        with locked(tmp_path):
            pass
        (tmp_path / ".lock").touch()
    assert (tmp_path / ".lock").is_file()


def test_a_lock_that_is_removed_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_lock", lambda *_: (tmp_path / ".lock").unlink())
    with pytest.raises(WrpError, match="is removed again and again"), locked(tmp_path):
        pass
    assert not locking._handles
