"""One file with flows of one clip: records of one size behind a header."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from uuid import uuid4

import numpy as np

from wrp.errors import WrpError
from wrp.flow.hashing import HASH_BYTES
from wrp.flow.space import DiskSpace
from wrp.io.writing import make_folder, refuse_link

try:
    import fcntl
except ImportError:  # Windows: one process per folder
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("wrp")

_HEADER_BYTES = 4096
# Before each flow: its key and its checksum; padded so that the flow is aligned.
_LABEL_BYTES = 64


@dataclass(frozen=True)
class Kind:
    """What a file of flows holds.

    Attributes:
        format: Its name in the header of the file.
        suffix: The end of the file's name, before ``.flow``.
        shape: Shape of a record, before (2, H, W).
        dtype: Type of a record.

    Example:
        >>> NEIGHBOURS.shape, NEIGHBOURS.dtype, DIRECT.shape, DIRECT.dtype
        ((2,), 'float16', (1,), 'float32')
    """

    format: str
    suffix: str
    shape: tuple[int, ...]
    dtype: str


NEIGHBOURS = Kind("wrp flow", "", (2,), "float16")
"""Both flows between two neighbouring frames; the key is the content hashes of both, one after the other."""

DIRECT = Kind("wrp direct flow", "-direct", (1,), "float32")
"""A direct flow, not rounded; the key is its :func:`~wrp.flow.hashing.direct_hash`."""


class FlowRecords:
    """Flows of one kind between frames of one clip and size, found by keys of 2 · ``HASH_BYTES`` bytes.

    The file is put in place with a complete header or not at all; a record counts when it is complete and its checksum
    is right. Processes that append to one file take turns.

    Args:
        path: The file; made if it is missing, made anew if it is not what it should be.
        kind: What the file holds.
        height: H in pixels.
        width: W in pixels.
        signature: Signature of the estimator.
        space: The disk space that the files of the folder may take.

    Raises:
        WrpError: If the file cannot be made or is a symbolic link.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     space = DiskSpace(Path(folder), max_bytes=2**20)
        ...     records = FlowRecords(Path(folder, "clip.flow"), NEIGHBOURS, 4, 6, "example", space)
        ...     records.append(bytes(2 * HASH_BYTES), np.ones((2, 2, 4, 6), np.float16))
        ...     print(records.read(bytes(2 * HASH_BYTES)).shape)
        (2, 2, 4, 6)
    """

    def __init__(self, path: Path, kind: Kind, height: int, width: int, signature: str, space: DiskSpace) -> None:
        self.path = path
        self._dtype: np.dtype[Any] = np.dtype(kind.dtype)
        self._shape = (*kind.shape, 2, height, width)
        self._record_bytes = _LABEL_BYTES + math.prod(self._shape) * self._dtype.itemsize
        self._header = _header(kind, height, width, signature)
        self._space = space
        self._numbers: dict[bytes, int] = {}
        self._known = 0
        self._is_broken = False
        try:
            make_folder(path.parent)
            refuse_link(path)
            if not self._is_mine():
                if path.exists():
                    logger.warning("%s is no flow cache of this estimator or is damaged; it is made anew", path)
                self._make()
        except OSError as error:
            raise WrpError(f"optical flow cannot be kept in {path.parent}: {error.strerror or error}") from error
        self._learn()

    @staticmethod
    def file_name(clip: str, kind: Kind, height: int, width: int, signature: str) -> str:
        """Return the name of the file of a clip for one kind, one size of frames in pixels and one estimator."""
        return f"{quote(clip, safe='')}-{height}x{width}-{_digest(signature)}{kind.suffix}.flow"

    @staticmethod
    def file_names(clip: str, signature: str) -> re.Pattern[str]:
        """Return the pattern of the names of all files of a clip for one estimator."""
        suffixes = "|".join((NEIGHBOURS.suffix, DIRECT.suffix))
        return re.compile(rf"{re.escape(quote(clip, safe=''))}-\d+x\d+-{_digest(signature)}({suffixes})\.flow")

    def read(self, key: bytes) -> np.ndarray | None:
        """Read one record.

        Returns:
            Flow in pixels, in the shape and type of the kind; None if the file does not have it.
        """
        if key not in self._numbers:
            self._learn()  # another process may have added it
        number = self._numbers.get(key)
        if number is None:
            return None
        try:
            # Mapped only while it is copied: a mapping that is kept would count as this process's memory.
            record = np.memmap(self.path, np.uint8, "r", self._offset(number), (self._record_bytes,))
            label, flow = record[:_LABEL_BYTES].tobytes(), record[_LABEL_BYTES:].copy()
        except (OSError, ValueError):  # deleted or cut short since
            label, flow = b"", np.empty(0, np.uint8)
        if label != _label(key, flow):
            logger.warning("%s: a flow is damaged and is estimated anew", self.path)
            del self._numbers[key]
            return None
        return flow.view(self._dtype).reshape(self._shape)

    def append(self, key: bytes, flow: np.ndarray) -> None:
        """Add one record, unless there is no room.

        Args:
            key: The key.
            flow: Flow in pixels, in the shape and type of the kind.
        """
        if self._is_broken or not self._space.take(self._record_bytes):
            return
        payload = np.ascontiguousarray(flow).view(np.uint8).reshape(-1)
        try:
            with _locked(self.path) as file:
                number = self._count(file)
                file.seek(self._offset(number))
                file.write(_label(key, payload) + payload.tobytes())
        except OSError as error:  # e.g. a full disk or a deleted folder: the run can go on without the cache
            logger.warning("%s: flow is no longer kept: %s", self.path, error.strerror or error)
            self._is_broken = True
            return
        self._numbers[key] = number

    def _make(self) -> None:
        """Put a file with nothing but its header in place, unless another process has just done so."""
        self._space.take(_HEADER_BYTES)
        temporary = self.path.with_name(f".{self.path.name}.{uuid4().hex[:12]}.tmp")
        try:
            temporary.write_bytes(self._header)
            try:
                os.link(temporary, self.path)
            except OSError:  # there is a file, or the file system has no links
                if not self._is_mine():
                    os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        try:
            with self.path.open("rb") as file:
                return file.read(_HEADER_BYTES) == self._header
        except OSError:
            return False

    def _learn(self) -> None:
        """Note the keys of the complete records that are not known yet."""
        try:
            with self.path.open("rb") as file:
                count = self._count(file)
                if count < self._known:  # another file has taken its place
                    self._numbers.clear()
                    self._known = 0
                for number in range(self._known, count):
                    file.seek(self._offset(number))
                    self._numbers[file.read(2 * HASH_BYTES)] = number
                self._known = count
        except OSError:
            self._numbers.clear()

    def _count(self, file: BinaryIO) -> int:
        return (os.fstat(file.fileno()).st_size - _HEADER_BYTES) // self._record_bytes

    def _offset(self, number: int) -> int:
        return _HEADER_BYTES + number * self._record_bytes


def _digest(signature: str) -> str:
    return hashlib.blake2b(signature.encode(), digest_size=4).hexdigest()


def _header(kind: Kind, height: int, width: int, signature: str) -> bytes:
    about = {"format": kind.format, "version": 2, "height": height, "width": width, "signature": signature}
    return json.dumps(about).encode().ljust(_HEADER_BYTES)[:_HEADER_BYTES]


def _label(key: bytes, flow: np.ndarray) -> bytes:
    return (key + zlib.crc32(flow.data).to_bytes(4, "little")).ljust(_LABEL_BYTES, b"\0")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("r+b") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield file
