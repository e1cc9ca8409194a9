"""Flow between neighbouring frames, estimated once and kept: for refiner training, propagation and votes alike."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wrp.flow.estimator import FlowEstimator
from wrp.flow.hashing import frame_hash
from wrp.flow.records import FlowRecords
from wrp.geometry.backends.cpu import convert, join
from wrp.geometry.composed import NeighbourFlow
from wrp.io.caching import count_bytes
from wrp.io.outputs import FLOW, claim
from wrp.structures import ClipBatch, FramePair

logger = logging.getLogger("wrp")

# Disk space that one cache may take by default, in bytes: 6000 pairs of 480×360.
MAX_BYTES = 2**33

# Memory for the flows of a cache without a folder, in bytes: 48 pairs of 480×360; the others go to the disk.
HELD_BYTES = 2**26


class FlowCache(FlowEstimator):
    """An estimator whose flows between neighbouring frames are kept on disk, one file per clip.

    Flow is kept as float16, which moves a point by at most 2⁻¹¹ of its flow (0.005 px at 10 px). Flow that has just
    been estimated is rounded as well, so that a run that finds its flows gives exactly the result of the run that made
    them. A flow is found by the content hashes of its two frames; the file, by clip, size and the estimator's
    signature. Files that are damaged, cut short or of another estimator are not trusted: what they lack is estimated
    anew.

    Args:
        estimator: Makes the flows that are not there.
        folder: Folder of the files, which runs and processes may share; it must be new, empty or a flow cache. None: a
            temporary folder that is deleted with this object.
        max_bytes: Disk space for all clips; flows beyond it are estimated each time.

    Attributes:
        hits: Pairs of neighbours whose flows were found.
        misses: Pairs of neighbours whose flows were estimated.

    Raises:
        WrpError: At the first use of the folder, if it belongs to something else or cannot be written to.

    Example:
        >>> from wrp.flow.dis import DIS
        >>> frames = list(torch.zeros(3, 3, 32, 48, dtype=torch.uint8))
        >>> batch = ClipBatch("clip", stems=["0", "1", "2"], first=0, frames=frames, labels={}, queries=(0, 3))
        >>> cache = FlowCache(DIS())
        >>> first, again = (list(cache.neighbours(batch, [0, 1])) for _ in range(2))
        >>> again[0].flow_fw.shape, cache.hits, cache.misses
        (torch.Size([1, 2, 32, 48]), 2, 2)
    """

    def __init__(self, estimator: FlowEstimator, folder: str | None = None, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(pairs_per_call=estimator.pairs_per_call)
        self.estimator = estimator
        self.prefetch, self.any_frames, self.sparse = estimator.prefetch, estimator.any_frames, estimator.sparse
        self.folder = folder
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._start()

    def _start(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="wrp-flow-")  # empty, and deleted with this object
        self._open: dict[Path, _Opened] = {}
        self._users: Counter[str] = Counter()
        self._is_claimed = False
        self._turn = threading.Lock()  # intervals may be propagated in several threads

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or another process gets: the settings, but no temporary folder of this object."""
        own = ("_temporary", "_open", "_users", "_is_claimed", "_turn")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()

    @contextlib.contextmanager
    def held(self, clip: str) -> Iterator[None]:
        """Keep temporary flows of a clip within the block, even if other clips are used meanwhile."""
        with self._turn:
            self._users[clip] += 1
        try:
            yield
        finally:
            with self._turn:
                self._users[clip] -= 1

    @property
    def place(self) -> Path:
        """Folder of the files."""
        return Path(self.folder if self.folder is not None else self._temporary.name)

    def _claimed(self) -> Path:
        """Return :attr:`place`, which is marked as a flow cache at its first use; WrpError if it is something else."""
        if self.folder is not None and not self._is_claimed:
            self.folder = str(claim(Path(self.folder), FLOW, self.reads, "flow cache"))
            self._is_claimed = True
        return self.place

    @property
    def signature(self) -> str:
        """Signature of the estimator."""
        return self.estimator.signature

    @property
    def reads(self) -> set[Path]:
        """The folders that the estimator reads; the cache's own folder is checked when it is first used."""
        return self.estimator.reads

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Estimate flow between any two frames; only that between neighbours is kept, see :meth:`between`."""
        return self.estimator(frames_s, frames_t, pairs)

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        """Estimate flow between any two frames from an initial flow; it is not kept."""
        return self.estimator(frames_s, frames_t, start=start)

    def between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        """Return both flows between frames i and i + 1 for each index i, from the file, or estimated and added to it.

        Args:
            batch: Frames of one clip.
            indices: Indices i in the clip.

        Returns:
            One pair of flows (1, 2, H, W) float32 in pixels for each index, on the device of the frames.
        """
        with self._turn:
            return self._between(batch, indices)

    def _between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        opened = self._opened(batch, indices[0])
        keys = {i: frame_hash(batch, i) for i in sorted({*indices, *(i + 1 for i in indices)})}
        found: dict[int, NeighbourFlow] = {}
        for i in indices:
            packed = opened.find(keys[i] + keys[i + 1])
            if packed is not None:
                found[i] = _unpack(packed.to(batch.frame(i).device))
        missing = [i for i in indices if i not in found]
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            before = self.estimator.seconds
            for i, flow in zip(missing, self.estimator.between(batch, missing), strict=True):
                packed = _pack(flow)
                self._keep(opened, keys[i] + keys[i + 1], packed)
                found[i] = _unpack(packed)
            self.seconds += self.estimator.seconds - before
        return [found[i] for i in indices]

    def _keep(self, opened: _Opened, key: bytes, packed: Tensor) -> None:
        held = sum(count_bytes(other.held.values()) for other in self._open.values())
        if self.folder is None and held + packed.nbytes <= HELD_BYTES:
            opened.held[key] = packed
        else:
            opened.records.append(key, packed.cpu().numpy())

    def summary(self) -> str:
        """Describe how many pairs were found and the size of the files, in one line of text."""
        asked = self.hits + self.misses
        rate = 100 * self.hits / asked if asked else 0.0
        return (
            f"flow cache {self.place}: {asked} pairs asked for, {rate:.0f} % found, {self._size() / 1e6:.0f} MB on disk"
        )

    def _opened(self, batch: ClipBatch, index: int) -> _Opened:
        # Not the first frame: the frames of a long clip are read from disk at each access.
        height, width = batch.frame(index).shape[1:]
        path = self._claimed() / FlowRecords.file_name(batch.clip, height, width, self.signature)
        if path not in self._open:
            # Clips come one after the other: those no longer in use are closed, and their temporary flows deleted.
            for other in [other for other, opened in self._open.items() if not self._users[opened.clip]]:
                del self._open[other]
                if self.folder is None:
                    other.unlink(missing_ok=True)
            self._open[path] = _Opened(batch.clip, FlowRecords(path, height, width, self.signature, self._room))
        return self._open[path]

    def _size(self) -> int:
        """Return the bytes on disk."""
        size = 0
        for path in self.place.glob("*.flow"):
            with contextlib.suppress(FileNotFoundError):  # another job has just deleted it
                size += path.stat().st_size
        return size

    def _room(self) -> int:
        """Return the bytes that may still be written."""
        return self.max_bytes - self._size()


@dataclass(frozen=True)
class _Opened:
    """The flows of one clip: those in its file and, by the content hashes of both frames, those held in memory."""

    clip: str
    records: FlowRecords
    held: dict[bytes, Tensor] = field(default_factory=dict)

    def find(self, key: bytes) -> Tensor | None:
        if key in self.held:
            return self.held[key]
        stored = self.records.read(key)
        return None if stored is None else torch.from_numpy(stored)


def cached(estimator: FlowEstimator) -> FlowCache:
    """Return the estimator if it is a cache, or a temporary cache around it.

    Example:
        >>> from wrp.flow.dis import DIS
        >>> cache = cached(DIS())
        >>> cached(cache) is cache
        True
    """
    return estimator if isinstance(estimator, FlowCache) else FlowCache(estimator)


def _pack(flow: NeighbourFlow) -> Tensor:
    return join([convert(flow.flow_fw, torch.float16), convert(flow.flow_bw, torch.float16)])


def _unpack(packed: Tensor) -> NeighbourFlow:
    return NeighbourFlow(*convert(packed, torch.float32).split(1))
