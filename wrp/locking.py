"""One writer for each output folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wrp.types import WrpError
from wrp.writing import refuse_link

logger = logging.getLogger("wrp")


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a folder until the block has ended, however it ends.

    Args:
        folder: Made if it is not there; ``.lock`` in it stays behind, empty.
        shared: Whether other jobs that share the folder may write to it as well, each its own files.

    Raises:
        WrpError: If another process is writing there, or the folder is a symbolic link.
    """
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        _lock(handle, folder, shared)
        yield
    finally:
        os.close(handle)  # which unlocks it, as the end of the process would


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
