"""What is learned from around a keyframe: all that was met on a walk along the flow away from it."""

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
    """What is learned from at one keyframe t: all that was met on a walk along the flow away from it.

    Attributes:
        label: y_t, (H, W) uint8.
        teacher_probs: The teacher's probabilities p^S_t, (C, H, W) float16.
        cycles: For each offset k ≠ 0, the label of t after the cycle t → t+k → t.
        pairs: For each offset at which another keyframe stands, its label brought to t: real one-way noise.
    """

    label: Tensor
    teacher_probs: Tensor
    cycles: dict[int, WarpedLabels]
    pairs: dict[int, WarpedLabels]

    def nbytes(self) -> int:
        """Memory it takes."""
        sources = [*self.cycles.values(), *self.pairs.values()]
        own = count_bytes([self.label, self.teacher_probs])
        return own + sum(count_bytes(vars(source).values()) for source in sources)

    def save(self, path: Path) -> None:
        """Write it to a file."""
        with replacing(path) as temporary:
            torch.save(asdict(self), temporary)

    @classmethod
    def load(cls, path: Path) -> CycleRecord:
        """Map a file into memory: of what is cropped later, only that part is read."""
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        for kind in ("cycles", "pairs"):
            state[kind] = {offset: WarpedLabels(**warped) for offset, warped in state[kind].items()}
        return cls(**state)


def kept_record(path: Path, max_bytes: int, make: Callable[[], CycleRecord]) -> CycleRecord:
    """A walk from its file, made where it is not there; the least recently used files go where there is no room."""
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError):
        os.utime(path)
        return CycleRecord.load(path)  # unless it is not there, another process has just deleted it, or it is damaged
    record = make()
    kept = []
    for file in path.parent.glob("*.cycles"):
        with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
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
    """Draw what two keyframes could say about a frame whose truth is known.

    Either the labels of the other keyframes in reach, alone or with a cycle, or two cycles over t - k' and t + k with
    k + k' = ``interval``, as inference has it; k = 0 is the truth itself. At the end of a clip both cycles are on one
    side.

    Args:
        walk: What is known at the frame.
        interval: K; None: the length of the walk's longer side.
        pair_ratio: Probability of an example with the labels of other keyframes, where there are any.
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
    """The cycle over an offset, or over one as far on the other side, or over the nearest to it there is."""
    if offset == 0:
        label = record.label
        zeros = torch.zeros_like(label[None])
        away = torch.zeros(1, device=label.device)
        return WarpedLabels(label[None], zeros.bool(), zeros.half(), away, away.long())
    for wanted in (offset, -offset):
        if wanted in record.cycles:
            return record.cycles[wanted]
    return record.cycles[min(record.cycles, key=lambda o: (abs(abs(o) - abs(offset)), abs(o - offset)))]
