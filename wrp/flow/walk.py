"""Walking away from anchors: what they say about each frame of an interval, at a constant cost per frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wrp.flow.ahead import ahead
from wrp.flow.cache import FlowCache
from wrp.flow.direct import direct_flow, without_drift
from wrp.flow.spool import Spool
from wrp.ops.chain import extend_near, start_chain
from wrp.ops.cycle import anchor_evidence, image_of
from wrp.ops.fusion import Evidence, gather, join_sources
from wrp.types import ClipBatch

# Memory for what the later anchor says about the frames of an interval, in bytes: 24 frames of 480×360.
SPOOL_BYTES = 2**25


def walk_from(batch: ClipBatch, flow: FlowCache, anchor: int, indices: range) -> Iterator[Evidence]:
    """What an anchor says about each of the frames next to it, walking away from it.

    One source along the composed flow and, where the estimator has flow between any frames, one along the direct flow,
    see :mod:`wrp.flow.direct`.

    Args:
        batch: A stretch that holds the anchor, its label, and the frames.
        flow: Flow between neighbours.
        anchor: Index of the anchor in the clip.
        indices: Indices of the frames in the order of the walk, starting beside the anchor.
    """
    label, far = batch.labels[anchor], batch.frame(anchor)
    step, chain, image = indices.step, start_chain(label), image_of(far)
    neighbours = flow.neighbours(batch, (min(index, index - step) for index in indices))
    for index, neighbour in zip(indices, neighbours, strict=True):
        onward, homeward = neighbour.towards(step)
        frame, distance = batch.frame(index), abs(index - anchor)
        chain = extend_near(chain, homeward, onward)
        said = anchor_evidence(label, image, frame, chain, distance)
        if flow.any_frames:
            direct = direct_flow(chain, flow, frame, far)
            said = join_sources([said, anchor_evidence(label, image, frame, direct, distance)])
            chain = without_drift(chain, direct, said.photometric)
        yield said


@dataclass(frozen=True)
class Sides:
    """The anchors of an interval and the frames that each of them labels, in the order of the walk away from it.

    Attributes:
        earlier: Index of the anchor before the targets, or at their start; None if there is none.
        later: Index of the anchor behind the targets, or at their end; None if there is none.
        onward: Targets from the earlier anchor on, forward in time.
        homeward: Targets from the later anchor on, backward in time, the earlier anchor left out.
    """

    earlier: int | None
    later: int | None
    onward: range
    homeward: range

    @classmethod
    def of(cls, batch: ClipBatch) -> Sides:
        """The sides of an interval with one or two anchors."""
        start, stop = batch.targets
        earlier = max((a for a in batch.labels if a <= start), default=None)
        later = min((a for a in batch.labels if a >= stop - 1 and a != earlier), default=None)
        onward = range(0) if earlier is None else range(earlier + 1, stop if later != stop - 1 else stop - 1)
        first = start + 1 if earlier == start else start
        homeward = range(0) if later is None else range(later - 1, first - 1, -1)
        return cls(earlier, later, onward, homeward)


@torch.no_grad()
def walk_interval(batch: ClipBatch, flow: FlowCache) -> Iterator[tuple[int, Evidence | None]]:
    """What the anchors say about each frame of an interval, in temporal order; None at the anchors themselves.

    The chain to the later anchor runs backward in time, so its evidence is collected first, as ids, and goes to disk
    when the interval is long; the chain to the earlier anchor then runs along with the output.

    Args:
        batch: An interval with one or two anchors.
        flow: Flow between neighbours; the walk forward finds what the walk backward had estimated.

    Yields:
        Index in the clip, and evidence of one or two anchors, the earlier first.
    """

    def walk(anchor: int, indices: range) -> Iterator[list[Tensor]]:
        return (list(vars(evidence).values()) for evidence in walk_from(batch, flow, anchor, indices))

    for index, said in from_both_sides(batch, walk):
        yield index, None if said is None else gather([Evidence(*tensors) for tensors in said])


def from_both_sides(
    batch: ClipBatch, walk: Callable[[int, range], Iterator[list[Tensor]]]
) -> Iterator[tuple[int, list[list[Tensor]] | None]]:
    """What walks away from the anchors yield for each frame, the earlier anchor's first; None at the anchors."""
    sides = Sides.of(batch)
    from_later = Spool(SPOOL_BYTES)
    if sides.later is not None:
        for tensors in walk(sides.later, sides.homeward):
            from_later.push(tensors)
    from_earlier = ahead(iter(()) if sides.earlier is None else walk(sides.earlier, sides.onward))
    for index in range(*batch.targets):
        if index in (sides.earlier, sides.later):
            yield index, None
            continue
        said = [] if sides.earlier is None else [next(from_earlier)]
        if sides.later is not None:
            said.append(from_later.pop())
        yield index, said
