"""One writer for each output folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wrp.errors import WrpError
from wrp.io.outputs import require_run
from wrp.io.writing import held, is_open, refuse_link, remove_leftovers

logger = logging.getLogger("wrp")

# Times that a lock is opened anew because whoever held it has removed it.
TRIES = 10

# Forked loader processes inherit the open locks and outlive a killed run by seconds, so they close them at once.
_handles: set[int] = set()


def _let_go() -> None:
    for handle in _handles:
        os.close(handle)
    _handles.clear()
    held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a folder until the block has ended, however it ends.

    Should somebody delete the folder meanwhile, this process writes nothing more there, see
    :func:`~wrp.io.writing.make_folder`.

    Args:
        folder: The folder, created if it is not there. An empty ``.lock`` lies in it meanwhile, and stays if the block
            ends by an error, or the folder is shared.
        shared: Whether other jobs that share the folder may write to it at the same time, each its own files.

    Raises:
        WrpError: If another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = _open_locked(folder, shared)
    try:
        held[folder] = handle
        yield
        if not shared and handle in _handles and _may_remove(folder, handle):
            (folder / ".lock").unlink()
    finally:
        held.pop(folder, None)
        _close(handle)


@contextmanager
def added_to(run: Path) -> Iterator[Path]:
    """Yield the folder of a run, to which no other process writes until the block has ended, without leftovers.

    Args:
        run: The folder; links that lead to it are followed.

    Raises:
        WrpError: If it is not that of a run, or another process is writing there.
    """
    out = require_run(run)
    with locked(out):
        remove_leftovers(out)
        yield out


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Let one process after another do what is in the block, in the order in which they come.

    Unlike :func:`locked`, others wait. Where folders cannot be locked, none does.

    Args:
        folder: A folder, in which nothing is written.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield
        return
    _handles.add(handle)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle in _handles:
            _handles.remove(handle)
            _unlock(handle)
            os.close(handle)


def _unlock(handle: int) -> None:
    """Unlock at once, as the end of the process would: a newly forked process may still hold the lock."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)


def _open_locked(folder: Path, shared: bool) -> int:
    """Lock the file ``.lock`` of a folder, and return its handle.

    Whoever held it may have removed it since it was opened here: then a lock on it would keep nobody out.
    """
    path = folder / ".lock"
    for _ in range(TRIES):
        refuse_link(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        _handles.add(handle)
        try:
            _lock(handle, folder, shared)
        except BaseException:
            _close(handle)
            raise
        if is_open(path, handle):
            return handle
        _close(handle)
    raise WrpError(f"{path} is removed again and again: let no other command write to {folder} meanwhile")


def _close(handle: int) -> None:
    if handle in _handles:  # else this is a forked process, in which it is closed already
        _handles.remove(handle)
        _unlock(handle)
        os.close(handle)


def _may_remove(folder: Path, handle: int) -> bool:
    """Tell whether the open file of a lock is the folder's, and keeps all others out: not on systems without locks."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_open(folder / ".lock", handle)
    return False


def _lock(handle: int, folder: Path, shared: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one folder are the user's to avoid
        return
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WrpError(f"another process is writing to {folder}; wait for it, or choose another --out") from error
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked (%s): let no other run write there meanwhile", folder, error)
