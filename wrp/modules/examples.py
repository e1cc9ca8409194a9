"""What the refiner learns from at a frame whose truth is known, and how examples are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wrp.caching import count_bytes
from wrp.ops.fusion import Evidence, gather


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
        return self.label.nbytes + self.semantic.nbytes + sum(count_bytes(vars(source).values()) for source in sources)


def draw_evidence(walk: Walk, interval: int | None, pair_share: float) -> Evidence:
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
        return gather(sources)
    before = int(torch.randint(0, reach + 1, ()))
    return gather([_cycle(walk, -before), _cycle(walk, reach - before)])


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
