"""The record of a keyframe, from which training examples are drawn: its cycles and its pairs, kept in a file."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from wrp.geometry.fusion import WarpedLabels
from wrp.io.caching import count_bytes
from wrp.io.writing import replacing


@dataclass
class CycleRecord:
    """All that training examples at one keyframe t are drawn from.

    Attributes:
        label: y_t, (H, W) uint8.
        teacher_probs: The teacher's probabilities p^S_t, (C, H, W) float16 in [0, 1].
        cycles: For each offset k ≠ 0 of the window, the label of t after the cycle t → t+k → t.
        pairs: For each offset of another keyframe, its label warped to t: real one-way errors.

    Example:
        >>> label = torch.zeros(8, 8, dtype=torch.uint8)
        >>> CycleRecord(label, torch.zeros(2, 8, 8, dtype=torch.float16), cycles={}, pairs={}).nbytes()
        320
    """

    label: Tensor
    teacher_probs: Tensor
    cycles: dict[int, WarpedLabels]
    pairs: dict[int, WarpedLabels]

    def nbytes(self) -> int:
        """Return its size in memory, in bytes."""
        sources = [*self.cycles.values(), *self.pairs.values()]
        own = count_bytes([self.label, self.teacher_probs])
        return own + sum(count_bytes(vars(source).values()) for source in sources)

    def save(self, path: Path) -> None:
        """Write the record to a file, whole or not at all."""
        with replacing(path) as temporary:
            torch.save(asdict(self), temporary)

    @classmethod
    def load(cls, path: Path) -> CycleRecord:
        """Map a file of :meth:`save` into memory: only the parts that are used later are read."""
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        for kind in ("cycles", "pairs"):
            state[kind] = {offset: WarpedLabels(**warped) for offset, warped in state[kind].items()}
        return cls(**state)


def kept_record(path: Path, max_bytes: int, make: Callable[[], CycleRecord]) -> CycleRecord:
    """Load a record from its file, or make and save it.

    Args:
        path: The file, ``<name>.cycles``.
        max_bytes: Size limit of all such files in its folder, in bytes; the least recently used are deleted first.
        make: Makes the record if the file is missing or damaged.

    Example:
        >>> import tempfile
        >>> label = torch.zeros(8, 8, dtype=torch.uint8)
        >>> record = CycleRecord(label, torch.zeros(2, 8, 8, dtype=torch.float16), cycles={}, pairs={})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept_record(Path(folder, "a.cycles"), 2**20, lambda: record).label.shape
        torch.Size([8, 8])
    """
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError):
        os.utime(path)
        return CycleRecord.load(path)  # unless it is missing, damaged, or was just deleted by another process
    record = make()
    kept = []
    for file in path.parent.glob("*.cycles"):
        with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
            kept.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    room = max_bytes - record.nbytes() - sum(size for _, size, _ in kept)
    for _, size, file in sorted(kept):
        if room >= 0:
            break
        file.unlink(missing_ok=True)
        room += size
    record.save(path)
    return record


def draw_sources(record: CycleRecord, interval: int | None, pair_ratio: float) -> list[WarpedLabels]:
    """Draw the warped labels that two keyframes could give a frame t whose truth is known.

    They are either the labels of the nearest other keyframes, alone or with a cycle, or two cycles over t - k' and
    t + k with k + k' = ``interval``, as at inference; k = 0 gives the truth itself. At the end of a clip, both cycles
    are on one side. Random numbers come from torch's global generator.

    Args:
        record: The record of the frame.
        interval: K, in frames; None: the length of the longest cycle.
        pair_ratio: Probability, in [0, 1], of an example with the labels of other keyframes, if there are any.

    Returns:
        The warped labels of one or two sources.
    """
    longest = interval or max(abs(offset) for offset in record.cycles)
    if record.pairs and torch.rand(()) < pair_ratio:
        sources = [record.pairs[offset] for offset in _nearest_on_each_side(record.pairs)]
        if len(sources) == 1 and torch.rand(()) < 0.5:
            sources.append(_cycle(record, int(torch.randint(-longest, longest + 1, ()))))
        return sources
    before = int(torch.randint(0, longest + 1, ()))
    return [_cycle(record, -before), _cycle(record, longest - before)]


def _nearest_on_each_side(offsets: Mapping[int, WarpedLabels]) -> list[int]:
    sides = [[o for o in offsets if o < 0], [o for o in offsets if o > 0]]
    return [min(side, key=abs) for side in sides if side]


def _cycle(record: CycleRecord, offset: int) -> WarpedLabels:
    """Return the cycle over an offset, else that over the opposite offset, else that over the nearest offset."""
    if offset == 0:
        label = record.label
        zeros = torch.zeros_like(label[None])
        away = torch.zeros(1, device=label.device)
        return WarpedLabels(label[None], zeros.bool(), zeros.half(), away, away.long())
    for wanted in (offset, -offset):
        if wanted in record.cycles:
            return record.cycles[wanted]
    return record.cycles[min(record.cycles, key=lambda o: (abs(abs(o) - abs(offset)), abs(o - offset)))]
