"""SegProp's vote along an interval: four sources for each frame, then rounds of votes among neighbouring frames."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Collection, Generator, Iterator
from typing import IO

import torch
from torch import Tensor

from wrp.flow.source import FlowSource
from wrp.geometry.backends.cpu import join
from wrp.geometry.composed import identity_flow
from wrp.geometry.fusion import count_votes, hide_farther
from wrp.geometry.vote import OFFSETS, push_labels, source_weights
from wrp.geometry.warp import compose, finite, warp, warp_labels
from wrp.propagation.warping import FromBothSides, Sides
from wrp.structures import ClipBatch


def vote_sources(
    batch: ClipBatch, flow: FlowSource, keyframes: str = "both", wanted: Collection[int] | None = None
) -> Generator[tuple[int, tuple[Tensor, Tensor]], None, None]:
    """Collect the sources of SegProp's vote (Marcu et al., ACCV 2020) for each frame, at a constant cost per frame.

    Args:
        batch: An interval with one or two keyframes.
        flow: Flow between neighbours.
        keyframes: ``both``; ``previous``: the earlier or only one; ``nearest``: at each pixel the nearest that has a
            label there.
        wanted: Indices in the clip of the frames to label; None: all.

    Yields:
        For each frame but the keyframes: its index in the clip; labels (S, H, W) uint8 of two sources per keyframe, one
        pushed along the flow from the keyframe, one sampled along the flow to it; and the weight of each source, (S,)
        float32.
    """
    sides = Sides.of(batch)
    indices = [i for i in range(*batch.queries) if i not in batch.labels and (wanted is None or i in wanted)]
    if not indices:
        return
    within = range(indices[0], indices[-1] + 1)
    with FromBothSides(batch, lambda keyframe, frames: _vote_from(batch, flow, keyframe, frames), within) as made:
        for index in indices:
            labels = join([labels for [labels] in made.at(index)])
            weights = torch.full((2,), 0.5, dtype=torch.float32)
            if sides.earlier is not None and sides.later is not None:
                earlier, later = source_weights((index - sides.earlier) / (sides.later - sides.earlier))
                weights = torch.tensor([earlier, earlier, later, later], dtype=torch.float32) / 2
            if keyframes == "previous":
                labels, weights = labels[:2], weights[:2]
            elif keyframes == "nearest" and len(labels) == 4:
                away = torch.tensor([abs(index - keyframe) for keyframe in sorted(batch.labels)]).repeat_interleave(2)
                labels = hide_farther(labels, away, torch.tensor([0, 0, 1, 1]))
            yield index, (labels, weights)


def vote_interval(
    batch: ClipBatch,
    flow: FlowSource,
    num_classes: int,
    rounds: int,
    keyframes: str = "both",
    wanted: Collection[int] | None = None,
) -> Generator[tuple[int, Tensor], None, None]:
    """Count SegProp's soft votes (Marcu et al., ACCV 2020) for each frame of an interval.

    Args:
        batch: An interval with one or two keyframes.
        flow: Flow between neighbours.
        num_classes: C.
        rounds: Number of further rounds. In each, the votes of the frames at the distances of
            :data:`~wrp.geometry.vote.OFFSETS`, warped along the composed flow, are averaged with the frame's own; those
            of keyframes stay as they are. The cost per frame does not depend on the length of the interval.
        keyframes: ``both``; ``previous``: the earlier or only one; ``nearest``: in the first round, at each pixel the
            nearest that has a label there.
        wanted: Indices in the clip of the frames to label; None: all.

    Yields:
        Index in the clip and votes (C, H, W) float32 that sum to 1, or to 0 where nothing is known. Between rounds,
        votes are kept in a temporary file, one byte for each class, pixel and frame (rounding error 0.002); closing the
        generator deletes it.
    """
    votes = _first_round(batch, flow, num_classes, keyframes, None if rounds else wanted)
    for left in range(rounds, 0, -1):
        votes = _next_round(batch, flow, votes, keyframes, wanted if left == 1 else None)
    with contextlib.closing(votes):
        yield from votes


def _first_round(
    batch: ClipBatch, flow: FlowSource, num_classes: int, keyframes: str, wanted: Collection[int] | None
) -> Generator[tuple[int, Tensor], None, None]:
    with contextlib.closing(vote_sources(batch, flow, keyframes, wanted)) as sources:
        for index in range(*batch.queries):
            if wanted is not None and index not in wanted:
                continue
            if index in batch.labels:
                yield index, soft_votes(batch.labels[index][None], torch.ones(1, dtype=torch.float32), num_classes)
                continue
            _, (labels, weights) = next(sources)
            yield index, soft_votes(labels, weights.to(labels.device, non_blocking=True), num_classes)


def soft_votes(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Count the weighted votes of several sources.

    Args:
        labels: (S, H, W) uint8, class indices and 255.
        weights: Weight of each source, (S,) float32.
        num_classes: C.

    Returns:
        (C, H, W) float32 that sums to 1, or to 0 where no source has a label.

    Example:
        >>> labels = torch.tensor([[[0, 255]], [[1, 255]]], dtype=torch.uint8)
        >>> soft_votes(labels, torch.tensor([3.0, 1.0]), 2).tolist()
        [[[0.75, 0.0]], [[0.25, 0.0]]]
    """
    votes = count_votes(labels, weights.view(-1, 1, 1).expand(labels.shape), num_classes)
    return votes / votes.sum(0).clamp(min=1e-6)


def _next_round(
    batch: ClipBatch,
    flow: FlowSource,
    votes: Generator[tuple[int, Tensor], None, None],
    keyframes: str,
    wanted: Collection[int] | None,
) -> Generator[tuple[int, Tensor], None, None]:
    """Average the votes of the round before, gathered in a file, along the flow."""
    known = sorted(batch.labels)
    pinned = known[:1] if keyframes == "previous" else known
    # Of two keyframes, the farther one may be outside of the query frames; its votes are its label.
    first, last = min(batch.queries[0], *pinned), max(batch.queries[1] - 1, *pinned)
    if len(pinned) < len(known):
        last = min(last, known[1] - 1)  # the later keyframe does not vote, wherever it is
    with contextlib.closing(votes), tempfile.TemporaryFile(prefix="wrp-votes-") as file:
        shape: tuple[int, ...] = ()
        for index, soft in votes:
            shape = tuple(soft.shape)
            if first <= index <= last:
                _write(file, index - first, (soft * 255).round().to(torch.uint8))
        one = torch.ones(1, dtype=torch.float32)
        for keyframe in pinned:
            label = batch.labels[keyframe][None].cpu()
            _write(file, keyframe - first, (soft_votes(label, one, shape[0]) * 255).to(torch.uint8))
        for index in range(*batch.queries):
            if wanted is not None and index not in wanted:
                continue
            if index in batch.labels:
                label = batch.labels[index][None]
                yield index, soft_votes(label, one.to(label.device, non_blocking=True), shape[0])
                continue
            device = batch.labels[known[0]].device
            total = _read(file, index - first, shape).to(device, non_blocking=True).float() / 255
            for step in (-1, 1):
                ends = [min(max(index + step * offset, first), last) for offset in OFFSETS]
                for end, way in _flows_to(batch, flow, index, ends).items():
                    there = _read(file, end - first, shape).to(device, non_blocking=True).float()[None] / 255
                    total = total + ends.count(end) * warp(there, way)[0][0]
            yield index, total / total.sum(0).clamp(min=1e-6)


# The file is not mapped into memory: a mapping would add to the memory of this process, frame by frame.
def _write(file: IO[bytes], number: int, votes: Tensor) -> None:
    file.seek(number * votes.numel())
    file.write(votes.cpu().contiguous().numpy().data)


def _read(file: IO[bytes], number: int, shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape)
    file.seek(number * size)
    return torch.frombuffer(bytearray(file.read(size)), dtype=torch.uint8).view(shape)


def _flows_to(batch: ClipBatch, flow: FlowSource, index: int, ends: list[int]) -> dict[int, Tensor]:
    """Compose the flows from a frame to some frames on one side of it."""
    way = identity_flow(next(iter(batch.labels.values()))).flow
    ways = {end: way for end in ends if end == index}
    at = index
    while at != ends[-1]:
        step = 1 if ends[-1] > at else -1
        [neighbour] = flow.between(batch, [min(at, at + step)])
        way = finite(compose(way, neighbour.towards(step)[0]))
        at += step
        if at in ends:
            ways[at] = way
    return ways


def _vote_from(batch: ClipBatch, flow: FlowSource, keyframe: int, indices: range) -> Iterator[list[Tensor]]:
    """Yield the labels (2, H, W) of a keyframe in each frame: pushed along the flow, and sampled along the way back."""
    step, label = indices.step, batch.labels[keyframe]
    there = back = identity_flow(label).flow  # the composed flow from the keyframe, and the one back
    for neighbour in flow.neighbours(batch, (min(index, index - step) for index in indices)):
        onward, homeward = neighbour.towards(step)
        there, back = finite(compose(there, onward)), finite(compose(homeward, back))
        yield [join([push_labels(label, there[0])[None], warp_labels(label[None], back)])]
