"""How much of the disk the files of a cache may take."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("wrp")

# After so many records the files are measured again: other processes write to the folder as well.
MEASURE_EVERY = 256


class DiskSpace:
    """The disk space that the files of a folder may take. What this process writes is counted, not measured.

    The files are measured before the first record, when the space seems to be used up, and every
    :data:`MEASURE_EVERY` records.

    Args:
        folder: The folder, which need not exist.
        max_bytes: Disk space of all its files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     space = DiskSpace(Path(folder), max_bytes=100)
        ...     print(space.take(60), space.take(40), space.measure())
        True True 0
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._used: int | None = None
        self._taken = 0
        self._is_full = False
        self._is_told = False
        self._turn = threading.Lock()

    def take(self, size: int) -> bool:
        """Reserve bytes before they are written; False if there are not that many, which is logged once."""
        with self._turn:
            self._taken += 1
            seems_full = self._used is not None and self._used + size > self.max_bytes
            if self._used is None or self._taken >= MEASURE_EVERY or (seems_full and not self._is_full):
                self._used, self._taken = self.measure(), 0
            if self._used + size <= self.max_bytes:
                self._used += size
                return True
            self._is_full = True
            if not self._is_told:
                logger.warning(
                    "%s: the flow cache is full (%.1f GB); it keeps what it has, other flows are estimated each time",
                    self.folder,
                    self.max_bytes / 1e9,
                )
            self._is_told = True
            return False

    def delete(self, path: Path) -> None:
        """Delete a file of the folder, if it is there and may be deleted, and count its space as free."""
        with self._turn, contextlib.suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            self._is_full = False
            if self._used is not None:
                self._used -= size

    def files(self) -> Iterator[Path]:
        """Yield the files of the folder that count."""
        return self.folder.glob("*.flow")

    def measure(self) -> int:
        """Return the bytes that the files take."""
        size = 0
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):  # another job has just deleted it
                size += path.stat().st_size
        return size
