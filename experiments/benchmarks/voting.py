"""Compare SegProp's vote and the two-keyframe fusion, with the flows given, with a plain implementation of the vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from clips import CLASSES, Given
from measuring import Rows, least, size_name
from torch import Tensor
from torch.nn import functional

from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.fusion import blend_labels, blend_weights, weighted_vote
from wrp.geometry.vote import source_weights
from wrp.propagation.voting import vote_sources
from wrp.propagation.warping import IntervalWarper
from wrp.structures import IGNORE_INDEX, ClipBatch


def traced(flows: list[Tensor]) -> Tensor:
    """Follow a sequence of flows step by step from each pixel; returns coordinates (1, H, W, 2) in pixels."""
    height, width = flows[0].shape[-2:]
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    position = torch.stack((x, y), -1)[None]
    for flow in flows:
        step = functional.grid_sample(flow, position * scale - 1, padding_mode="border", align_corners=True)
        position = position + step.permute(0, 2, 3, 1)
    return position


def straightforward_vote(batch: ClipBatch, flows: Sequence[NeighbourFlow], num_classes: int = CLASSES) -> list[Tensor]:
    """Vote as SegProp defines it: for each frame, follow four sequences of flows anew and count votes."""
    (a, label_a), (b, label_b) = sorted(batch.labels.items())
    results = []
    for j in range(a + 1, b):
        before, behind = flows[a - batch.first : j - batch.first], flows[j - batch.first : b - batch.first]
        to_a = traced([f.flow_bw for f in reversed(before)])
        from_a = traced([f.flow_fw for f in before])
        to_b = traced([f.flow_fw for f in behind])
        from_b = traced([f.flow_bw for f in reversed(behind)])
        votes = torch.zeros(num_classes, label_a.numel())
        earlier, later = source_weights((j - a) / (b - a))
        for label, read, push, weight in ((label_a, to_a, from_a, earlier), (label_b, to_b, from_b, later)):
            source, inside = _pixels(read, label)
            _vote(votes, label.flatten()[source], inside, weight / 2)
            to, inside = _pixels(push, label)
            # Where several pixels land on one, the highest class is the last to be written.
            order = label.flatten().argsort(stable=True)
            order = order[(inside & (label.flatten() != IGNORE_INDEX))[order]]
            landed = torch.full((label.numel(),), IGNORE_INDEX, dtype=torch.uint8)
            landed[to[order]] = label.flatten()[order]
            _vote(votes, landed, torch.ones_like(inside), weight / 2)
        most, chosen = votes.max(0)
        results.append(chosen.to(torch.uint8).masked_fill(most == 0, IGNORE_INDEX).view_as(label_a))
    return results


def _pixels(position: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the pixel at each position (1, H, W, 2), (H · W,), and whether it lies in the frame."""
    height, width = label.shape
    x, y = (position[0].flatten(0, 1) + 0.5).floor().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1), inside


def _vote(votes: Tensor, labels: Tensor, counts: Tensor, weight: float) -> None:
    """Add a vote for the label of each pixel where it counts and has a class."""
    counts = counts & (labels != IGNORE_INDEX)
    votes.scatter_add_(0, labels.long().clamp(max=len(votes) - 1)[None], (weight * counts)[None])


def our_vote(batch: ClipBatch, flow: FlowCache) -> list[Tensor]:
    return [weighted_vote(*sources)[0] for _, sources in vote_sources(batch, flow)]


def our_fusion(batch: ClipBatch, flow: FlowCache) -> list[Tensor]:
    with IntervalWarper(batch, flow) as made:
        warped = [made.at(index) for index in range(*batch.queries) if index not in batch.labels]
    return [blend_labels(e, blend_weights(e), CLASSES)[0] for e in warped]


def voting(make: Callable[[int, tuple[int, int]], ClipBatch], cases: Sequence[tuple[tuple[int, int], int]]) -> Rows:
    """Compare voting and two-keyframe fusion, with the flows given, with a plain implementation of the vote.

    Args:
        make: Makes an interval with this many frames of this size.
        cases: (height, width) and K.
    """
    rows = []
    for size, every in cases:
        batch = make(every + 1, size)
        flows = [NeighbourFlow(*vars(f).values()) for f in FlowCache(DIS("medium", 1)).neighbours(batch, range(every))]
        given: FlowCache = Given(flows)  # type: ignore[assignment]
        ways = {
            "plain": partial(straightforward_vote, batch, flows),
            "vote": partial(our_vote, batch, given),
            "fusion": partial(our_fusion, batch, given),
        }
        found: dict[str, list[Tensor]] = {}

        def work(name: str, ways: dict = ways, found: dict = found) -> None:
            found[name] = ways[name]()

        times = dict(zip(ways, least(max(3, 70 // every), *(partial(work, name) for name in ways)), strict=True))
        frames, plain = every - 1, times["plain"]
        same = torch.stack([(x == y).float().mean() for x, y in zip(found["plain"], found["vote"], strict=True)])
        rows.append(
            {
                "frames": size_name(size),
                "K": every,
                "plain vote, ms a frame": 1e3 * plain / frames,
                "vote, ms": 1e3 * times["vote"] / frames,
                "fusion, ms": 1e3 * times["fusion"] / frames,
                "vote ×": plain / times["vote"],
                "fusion ×": plain / times["fusion"],
                "equal pixels, %": 100 * float(same.mean()),
            }
        )
    return rows
