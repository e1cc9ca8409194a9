"""Walking away from anchors: what they say about each frame of an interval, at a constant cost per frame."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wrp.flow.cache import FlowCache
from wrp.flow.spool import EvidenceSpool
from wrp.ops.chain import extend_near, start_chain
from wrp.ops.consistency import to_unit
from wrp.ops.cycle import anchor_evidence
from wrp.ops.fusion import Evidence, gather
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
    step = indices.step
    label, image = batch.labels[anchor], to_unit(batch.frame(anchor))
    chain = start_chain(label)
    flows = flow.neighbours(batch, (min(index, index - step) for index in indices))
    for index, neighbour in zip(indices, flows, strict=True):
        onward, homeward = neighbour.towards(step)
        chain = extend_near(chain, homeward, onward)
        yield anchor_evidence(label, image, to_unit(batch.frame(index)), chain, abs(index - anchor))


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
    start, stop = batch.targets
    earlier = max((a for a in batch.labels if a <= start), default=None)
    later = min((a for a in batch.labels if a >= stop - 1 and a != earlier), default=None)
    from_later = EvidenceSpool(SPOOL_BYTES)
    if later is not None:
        for evidence in walk_from(batch, flow, later, range(later - 1, start - 1, -1)):
            from_later.push(evidence)
        if earlier == start:
            from_later.pop()  # about the other anchor, whose label is known
    from_earlier = iter(()) if earlier is None else walk_from(batch, flow, earlier, range(earlier + 1, stop))
    for index in range(start, stop):
        if index in (earlier, later):
            yield index, None
            continue
        sources = [] if earlier is None else [next(from_earlier)]
        if later is not None:
            sources.append(from_later.pop())
        yield index, gather(sources)
