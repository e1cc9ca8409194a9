"""Walking away from anchors: what they say about each frame of an interval, at a constant cost per frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wrp.flow.ahead import ahead
from wrp.flow.cache import FlowCache
from wrp.flow.spool import Spool
from wrp.ops.chain import Chain, append_flow, extend_near, prepend_flow, start_chain
from wrp.ops.cpu import hide, serves
from wrp.ops.cycle import anchor_evidence, image_of
from wrp.ops.fusion import Evidence, gather
from wrp.ops.vote import push_labels, source_weights
from wrp.ops.warp import sample_nearest
from wrp.types import ClipBatch

# Memory for what the later anchor says about the frames of an interval, in bytes: 46 frames of 480×360.
SPOOL_BYTES = 2**25


def walk_from(batch: ClipBatch, flow: FlowCache, anchor: int, indices: range) -> Iterator[Evidence]:
    """What an anchor says about each of the frames next to it, walking away from it.

    Args:
        batch: A stretch that holds the anchor, its label, and the frames.
        flow: Flow between neighbours.
        anchor: Index of the anchor in the clip.
        indices: Indices of the frames in the order of the walk, starting beside the anchor.
    """
    label, image = batch.labels[anchor], image_of(batch.frame(anchor))
    chains = _chains_from(batch, flow, anchor, indices)
    # The next chain is extended while this one's end is looked at.
    for index, chain in zip(indices, ahead(chains) if serves(label) else chains, strict=True):
        yield anchor_evidence(label, image, batch.frame(index), chain, abs(index - anchor))


def _chains_from(batch: ClipBatch, flow: FlowCache, anchor: int, indices: range) -> Iterator[Chain]:
    """The chain from each frame of a walk to its anchor."""
    step, chain = indices.step, start_chain(batch.labels[anchor])
    for neighbour in flow.neighbours(batch, (min(index, index - step) for index in indices)):
        onward, homeward = neighbour.towards(step)
        chain = extend_near(chain, homeward, onward)
        yield chain


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
        Index in the clip, and evidence of one or two sources, the earlier anchor first.
    """

    def walk(anchor: int, indices: range) -> Iterator[list[Tensor]]:
        return (list(vars(evidence).values()) for evidence in walk_from(batch, flow, anchor, indices))

    for index, said in _from_both_sides(batch, walk):
        yield index, None if said is None else gather([Evidence(*tensors) for tensors in said])


@torch.no_grad()
def vote_interval(batch: ClipBatch, flow: FlowCache) -> Iterator[tuple[int, Tensor | None, Tensor]]:
    """SegProp's sources for each frame of an interval, at a constant cost per frame.

    Args:
        batch: An interval with one or two anchors.
        flow: Flow between neighbours.

    Yields:
        Index in the clip; labels (S, H, W) uint8 of two sources per anchor, pushed along the flow from the anchor and
        read through the flow to it, or None at the anchors themselves; and the weight of each source, (S,) float32.
    """
    sides = Sides.of(batch)
    for index, said in _from_both_sides(batch, lambda anchor, indices: _vote_from(batch, flow, anchor, indices)):
        if said is None:
            yield index, None, torch.ones(0)
            continue
        weights = torch.full((2,), 0.5)
        if sides.earlier is not None and sides.later is not None:
            earlier, later = source_weights((index - sides.earlier) / (sides.later - sides.earlier))
            weights = torch.tensor([earlier, earlier, later, later]) / 2
        yield index, torch.cat([labels for [labels] in said]), weights


def _from_both_sides(
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


def _vote_from(batch: ClipBatch, flow: FlowCache, anchor: int, indices: range) -> Iterator[list[Tensor]]:
    """Labels (2, H, W) of an anchor in each frame of a walk: pushed there, and read from there."""
    label = batch.labels[anchor]
    chains = _both_chains(batch, flow, anchor, indices)
    for there, back in ahead(chains) if serves(label) else chains:
        coords, valid = there.landing
        read = hide(sample_nearest(label[None], back.landing[0]), back.landing[1])
        yield [torch.stack((push_labels(label, coords[0], valid[0]), read[0]))]


def _both_chains(batch: ClipBatch, flow: FlowCache, anchor: int, indices: range) -> Iterator[tuple[Chain, Chain]]:
    """The chain from an anchor to each frame of a walk, and the one back."""
    step = indices.step
    there = back = start_chain(batch.labels[anchor])
    for neighbour in flow.neighbours(batch, (min(index, index - step) for index in indices)):
        onward, homeward = neighbour.towards(step)
        there, back = append_flow(there, onward), prepend_flow(back, homeward)
        yield there, back
