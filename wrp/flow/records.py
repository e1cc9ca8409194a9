"""One file with the neighbouring flows of one clip: records of one size behind a header."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote
from uuid import uuid4

import numpy as np

from wrp.errors import WrpError
from wrp.flow.hashing import HASH_BYTES
from wrp.io.writing import make_folder, refuse_link

try:
    import fcntl
except ImportError:  # Windows: one process per folder
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("wrp")

_HEADER_BYTES = 4096
# Before each flow: the content hashes of both frames and its checksum; padded so that the flow is aligned.
_LABEL_BYTES = 64


class FlowRecords:
    """Both flows of each pair of neighbours, (2, 2, H, W) float16, found by the content hashes of the two frames.

    The file is put in place with a complete header or not at all; a record counts when it is complete and its checksum
    is right. Processes that append to one file take turns.

    Args:
        path: The file; made if it is missing, made anew if it is not what it should be.
        height: H in pixels.
        width: W in pixels.
        signature: Signature of the estimator.
        room: Returns how many bytes may still be written.

    Raises:
        WrpError: If the file cannot be made or is a symbolic link.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = FlowRecords(Path(folder, "clip.flow"), 4, 6, "example", room=lambda: 2**20)
        ...     records.append(bytes(2 * HASH_BYTES), np.ones((2, 2, 4, 6), np.float16))
        ...     print(records.read(bytes(2 * HASH_BYTES)).shape)
        (2, 2, 4, 6)
    """

    def __init__(self, path: Path, height: int, width: int, signature: str, room: Callable[[], int]) -> None:
        self.path = path
        self._shape = (2, 2, height, width)
        self._flow_bytes = 8 * height * width
        self._record_bytes = _LABEL_BYTES + self._flow_bytes
        self._header = _header(height, width, signature)
        self._room = room
        self._numbers: dict[bytes, int] = {}
        self._known = 0
        self._full = False
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
    def file_name(clip: str, height: int, width: int, signature: str) -> str:
        """Return the name of the file of a clip for one size of frames in pixels and one estimator."""
        digest = hashlib.blake2b(signature.encode(), digest_size=4).hexdigest()
        return f"{quote(clip, safe='')}-{height}x{width}-{digest}.flow"

    def read(self, key: bytes) -> np.ndarray | None:
        """Read both flows of a pair.

        Args:
            key: Content hashes of both frames, one after the other.

        Returns:
            (2, 2, H, W) float16 in pixels, or None if the file does not have them.
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
        return flow.view(np.float16).reshape(self._shape)

    def append(self, key: bytes, flow: np.ndarray) -> None:
        """Add both flows of a pair, unless there is no room.

        Args:
            key: Content hashes of both frames, one after the other.
            flow: (2, 2, H, W) float16 in pixels.
        """
        if self._full or self._room() < self._record_bytes:
            if not self._full:
                logger.warning("%s: the flow cache is full; further flows are estimated each time", self.path.parent)
            self._full = True
            return
        payload = np.ascontiguousarray(flow).view(np.uint8).reshape(-1)
        try:
            with _locked(self.path) as file:
                number = self._count(file)
                file.seek(self._offset(number))
                file.write(_label(key, payload) + payload.tobytes())
        except OSError as error:  # e.g. a full disk or a deleted folder: the run can go on without the cache
            logger.warning("%s: flow is no longer kept: %s", self.path, error.strerror or error)
            self._full = True
            return
        self._numbers[key] = number

    def _make(self) -> None:
        """Put a file with nothing but its header in place, unless another process has just done so."""
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
        """Note the content hashes of the complete records that are not known yet."""
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


def _header(height: int, width: int, signature: str) -> bytes:
    about = {"format": "wrp flow", "version": 1, "height": height, "width": width, "signature": signature}
    return json.dumps(about).encode().ljust(_HEADER_BYTES)[:_HEADER_BYTES]


def _label(key: bytes, flow: np.ndarray) -> bytes:
    return (key + zlib.crc32(flow.data).to_bytes(4, "little")).ljust(_LABEL_BYTES, b"\0")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("r+b") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield file
