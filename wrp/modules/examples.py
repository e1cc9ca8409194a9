"""What the refiner learns from at a frame whose truth is known, and how examples are drawn from it."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wrp.caching import count_bytes
from wrp.ops.fusion import Evidence

Place = tuple[slice, slice]
"""Rows and columns of a part of a frame."""


@dataclass
class Walk:
    """Everything that is learned at one frame t: what a walk of the flow away from it met.

    Attributes:
        label: y_t, (H, W) uint8.
        semantic: The teacher's probabilities p^S_t, (C, H, W) float16.
        cycles: For each offset k ≠ 0, the label of t after the cycle t → t+k → t.
        pairs: For each offset at which another anchor stands, its label brought to t: real one-way noise.
    """

    label: Tensor
    semantic: Tensor
    cycles: dict[int, Evidence]
    pairs: dict[int, Evidence]

    def nbytes(self) -> int:
        """Memory it takes."""
        sources = [*self.cycles.values(), *self.pairs.values()]
        return count_bytes([self.label, self.semantic]) + sum(count_bytes(vars(source).values()) for source in sources)

    def save(self, path: Path) -> None:
        """Write it to a file."""
        torch.save(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Walk:
        """Map a file into memory: of what is cropped later, only that part is read."""
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        for kind in ("cycles", "pairs"):
            state[kind] = {offset: Evidence(**evidence) for offset, evidence in state[kind].items()}
        return cls(**state)


class WalkCache:
    """Walks that were made, in temporary files: those of many frames together are larger than memory.

    The least recently used goes first where the files would take more than ``max_bytes`` or half of the free disk.

    Args:
        max_bytes: Disk space that the files may take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._walks: OrderedDict[Hashable, tuple[Path, Walk]] = OrderedDict()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process gets: the limit, but nothing that was made."""
        return {"max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._walks)

    def get(self, key: Hashable, make: Callable[[], Walk]) -> Walk:
        """The walk of ``key``, made by ``make`` where it is not there."""
        if key in self._walks:
            self._walks.move_to_end(key)
            return self._walks[key][1]
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="wrp-walks-")
            self.max_bytes = min(self.max_bytes, shutil.disk_usage(self._folder.name).free // 2)
        walk = make()
        size = walk.nbytes()
        while self._walks and size + sum(held.nbytes() for _, held in self._walks.values()) > self.max_bytes:
            self._walks.popitem(last=False)[1][0].unlink()
        with tempfile.NamedTemporaryFile(dir=self._folder.name, suffix=".walk", delete=False) as file:
            path = Path(file.name)
        walk.save(path)
        walk = Walk.load(path)
        self._walks[key] = path, walk
        return walk


def draw_sources(walk: Walk, interval: int | None, pair_share: float) -> list[Evidence]:
    """Draw what two anchors could say about a frame whose truth is known.

    Either the labels of the other anchors in reach, alone or with a cycle, or two cycles over t - k' and t + k with
    k + k' = ``interval``, as inference has it; k = 0 is the truth itself. At the end of a clip both cycles are on one
    side.

    Args:
        walk: What is known at the frame.
        interval: K; None: the length of the walk's longer side.
        pair_share: Probability of an example with the labels of other anchors, where there are any.
    """
    reach = interval or max(abs(offset) for offset in walk.cycles)
    if walk.pairs and torch.rand(()) < pair_share:
        sources = [walk.pairs[offset] for offset in _nearest_on_each_side(walk.pairs)]
        if len(sources) == 1 and torch.rand(()) < 0.5:
            sources.append(_cycle(walk, int(torch.randint(-reach, reach + 1, ()))))
        return sources
    before = int(torch.randint(0, reach + 1, ()))
    return [_cycle(walk, -before), _cycle(walk, reach - before)]


def _nearest_on_each_side(offsets: dict[int, Evidence]) -> list[int]:
    sides = [[o for o in offsets if o < 0], [o for o in offsets if o > 0]]
    return [min(side, key=abs) for side in sides if side]


def _cycle(walk: Walk, offset: int) -> Evidence:
    """The cycle over an offset, or over one as far on the other side, or over the nearest to it there is."""
    if offset == 0:
        label = walk.label
        zeros = torch.zeros_like(label[None])
        away = torch.zeros(1, device=label.device)
        return Evidence(label[None], zeros.bool(), zeros.half(), away, away.long())
    for wanted in (offset, -offset):
        if wanted in walk.cycles:
            return walk.cycles[wanted]
    return walk.cycles[min(walk.cycles, key=lambda o: (abs(abs(o) - abs(offset)), abs(o - offset)))]
