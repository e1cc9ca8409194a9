"""Flow that is estimated once and kept: for refiner training, propagation and votes alike."""

from __future__ import annotations

import contextlib
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
from wrp.flow.hashing import direct_hash, frame_hash
from wrp.flow.records import DIRECT, NEIGHBOURS, FlowRecords, Kind
from wrp.flow.source import Way
from wrp.flow.space import DiskSpace
from wrp.geometry.backends.cpu import convert, join
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.cuts import is_cut, is_lost, lose
from wrp.io.caching import BoundedCache, count_bytes
from wrp.io.outputs import FLOW, claim
from wrp.structures import ClipBatch, FramePair

# Disk space that one cache may take by default, in bytes: 6000 pairs of neighbours or direct flows of 480×360.
MAX_BYTES = 2**33

# Memory for the flows of a cache without a folder, in bytes: 48 pairs of 480×360; the others go to the disk.
HELD_BYTES = 2**26

# Pairs of frames of which a cache remembers whether there is a cut between them; a byte each.
HELD_CUTS = 2**10


class FlowCache(FlowEstimator):
    """An estimator whose flows are kept on disk, in two files per clip: those of neighbouring frames, and direct ones.

    Flow between neighbours is kept as float16, which moves a point by at most 2⁻¹¹ of its flow (0.005 px at 10 px).
    Flow that has just been estimated is rounded as well, so that a run that finds its flows gives exactly the result of
    the run that made them. What is returned across a cut leads out of the frame, see :mod:`wrp.geometry.cuts`. A flow
    is found by the content hashes of its two frames; the file, by clip, size and the estimator's signature. Files that
    are damaged, cut short or of another estimator are not trusted: what they lack is estimated anew.

    Direct flows are kept as they are, and found by the content hashes of all frames on the way, see :meth:`direct`.
    Within one propagation none is needed twice, so only a cache with a folder keeps them.

    Args:
        estimator: Makes the flows that are not there.
        folder: Folder of the files, which runs and processes may share; it must be new, empty or a flow cache. None: a
            temporary folder that is deleted with this object.
        max_bytes: Disk space for all clips; flows beyond it are estimated each time. :meth:`forget` makes room.

    Attributes:
        hits: Pairs of neighbours whose flows were found.
        misses: Pairs of neighbours whose flows were estimated.
        keeps_direct: Whether direct flows are added to the files; those that are there are found in any case.

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
        self.keeps_direct = True
        self._start()

    def _start(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="wrp-flow-")  # empty, and deleted with this object
        self._space = DiskSpace(self.place, self.max_bytes)
        self._open: dict[Kind, dict[Path, _Opened]] = {NEIGHBOURS: {}, DIRECT: {}}
        self._users: Counter[str] = Counter()
        self._is_claimed = False
        # Intervals may be propagated in several threads. Direct flows do not wait for the estimation of others.
        self._turn, self._direct_turn = threading.Lock(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or another process gets: the settings, but no temporary folder of this object."""
        own = ("_temporary", "_space", "_open", "_users", "_is_claimed", "_turn", "_direct_turn")
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
    def seconds(self) -> float:
        """Time that the estimator has spent in estimation."""
        return self.estimator.seconds

    @property
    def estimates(self) -> int:
        """How many flows the estimator has estimated."""
        return self.estimator.estimates

    @property
    def reads(self) -> set[Path]:
        """The folders that the estimator reads; the cache's own folder is checked when it is first used."""
        return self.estimator.reads

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Estimate flow between any two frames; it is not kept, see :meth:`between` and :meth:`direct`."""
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
        # Not the first frame: the frames of a long clip are read from disk at each access.
        frame = batch.frame(indices[0])
        opened, device = self._opened(NEIGHBOURS, batch.clip, frame), frame.device
        keys = {i: frame_hash(batch, i) for i in sorted({*indices, *(i + 1 for i in indices)})}
        found: dict[int, NeighbourFlow] = {}
        for i in indices:
            packed = opened.find(keys[i] + keys[i + 1])
            if packed is not None:
                found[i] = _unpack(packed.to(device))
        missing = [i for i in indices if i not in found]
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            for i, flow in zip(missing, self.estimator.between(batch, missing), strict=True):
                packed = _pack(flow)
                self._keep(opened, keys[i] + keys[i + 1], packed)
                found[i] = _unpack(packed)
        # Not kept with the flow: whether there is a cut depends on the frames on both sides as well.
        return [lose(found[i], self._is_cut(opened, batch, i, found[i])) for i in indices]

    def _is_cut(self, opened: _Opened, batch: ClipBatch, index: int, flow: NeighbourFlow) -> Tensor:
        """Tell whether there is a cut between a frame and the next one, scalar bool."""
        first, last = batch.ends
        near = [at if first <= at <= last else None for at in range(index - 1, index + 3)]

        def compare() -> Tensor:
            before, frame_s, frame_t, behind = (None if at is None else batch.frame(at)[None] for at in near)
            assert frame_s is not None
            assert frame_t is not None
            return is_cut(frame_s, frame_t, flow, before, behind)[0]

        return opened.cuts.get(tuple(None if at is None else frame_hash(batch, at) for at in near), compare)

    def direct(self, batch: ClipBatch, index: int, far: int, start: Tensor, way: Way) -> Tensor:
        """Return the flow between two frames from the file, or estimated from the composed flow and added to it.

        See :meth:`FlowEstimator.direct`. The flow is exactly what the estimator returned.
        """
        if self.folder is None:
            return self._direct(batch, index, far, start, way)
        key = direct_hash(batch, index, far, way)
        with self._direct_turn:
            opened = self._opened(DIRECT, batch.clip, start)
            found = opened.find(key)
        if found is not None:
            return found.to(start.device)
        flow = self._direct(batch, index, far, start, way)
        if self.keeps_direct:
            with self._direct_turn:
                opened.records.append(key, flow.cpu().numpy())
        return flow

    def _direct(self, batch: ClipBatch, index: int, far: int, start: Tensor, way: Way) -> Tensor:
        lost = is_lost(start)[:, None]
        flow = super().direct(batch, index, far, start.masked_fill(lost, 0.0), way)
        return torch.where(lost, start, flow)

    def forget(self, clip: str) -> None:
        """Delete the flows of a clip, e.g. once all of it is labelled; the room is free for other clips.

        Those of other estimators stay, and files that cannot be deleted. A process that still uses the clip goes on
        without keeping its flow.
        """
        self._claimed()
        names = FlowRecords.file_names(clip, self.signature)
        with self._turn, self._direct_turn:
            for opened in self._open.values():
                for path in [path for path, one in opened.items() if one.clip == clip]:
                    del opened[path]
            for path in [path for path in self._space.files() if names.fullmatch(path.name)]:
                self._space.delete(path)

    def _keep(self, opened: _Opened, key: bytes, packed: Tensor) -> None:
        held = sum(count_bytes(other.held.values()) for other in self._open[NEIGHBOURS].values())
        if self.folder is None and held + packed.nbytes <= HELD_BYTES:
            opened.held[key] = packed
        else:
            opened.records.append(key, packed.cpu().numpy())

    def summary(self) -> str:
        """Describe how many pairs were found and the size of the files, in one line of text."""
        asked = self.hits + self.misses
        rate = 100 * self.hits / asked if asked else 0.0
        size = self._space.measure()  # none is left of what only this run needed, clip by clip
        kept = f", {size / 1e6:.0f} MB on disk" if size else ""
        return f"flow cache {self.place}: {asked} pairs asked for, {rate:.0f} % found{kept}"

    def _opened(self, kind: Kind, clip: str, sized: Tensor) -> _Opened:
        """Open the flows of a clip; ``sized`` has its height and width."""
        height, width = sized.shape[-2:]
        path = self._claimed() / FlowRecords.file_name(clip, kind, height, width, self.signature)
        open_ = self._open[kind]
        if path not in open_:
            # Clips come one after the other: those no longer in use are closed, and their temporary flows deleted.
            for other in [other for other, opened in open_.items() if not self._users[opened.clip]]:
                del open_[other]
                if self.folder is None:
                    self._space.delete(other)
            open_[path] = _Opened(clip, FlowRecords(path, kind, height, width, self.signature, self._space))
        return open_[path]


@dataclass(frozen=True)
class _Opened:
    """The flows of one kind of one clip: those in its file and, by their keys, those held in memory.

    Where there are cuts is held as well, by the content hashes of two frames and of those before and behind them.
    """

    clip: str
    records: FlowRecords
    held: dict[bytes, Tensor] = field(default_factory=dict)
    cuts: BoundedCache[tuple[bytes | None, ...], Tensor] = field(
        default_factory=lambda: BoundedCache(HELD_CUTS, lambda cut: cut.nbytes)
    )

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
