"""Walking away from a labelled frame and back: the cycles and pairs that the refiner learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wrp.flow.cache import FlowCache
from wrp.flow.direct import direct_flow, without_drift
from wrp.flow.walk import walk_interval
from wrp.modules.examples import Visit
from wrp.ops.chain import Chain, extend_far, extend_near, start_chain
from wrp.ops.consistency import photometric_error_along
from wrp.ops.cycle import anchor_evidence, cycle_evidence, image_of
from wrp.ops.fusion import Evidence, join_sources
from wrp.ops.warp import Sampler
from wrp.types import ClipBatch

Cycles = dict[int, Evidence]
"""Evidence by the offset of the frame that it came over or from."""


def walk_cycles(window: ClipBatch, flow: FlowCache, flow_back: FlowCache, crossed: bool) -> tuple[Cycles, Cycles]:
    """The cycles over each frame of a window, and the labels of the other anchors in it, as its target sees them.

    Args:
        window: A labelled frame with its neighbours.
        flow: Flow on the way out.
        flow_back: Flow on the way back.
        crossed: Whether a cycle goes out along the composed flow and back along the direct one, and the other way
            round.

    Returns:
        Cycles t → t+k → t and labels of anchors at t+k, brought to t, both by k.
    """
    target = window.targets[0]
    frame, label = window.frame(target), window.labels[target]
    image_here = image_of(frame)
    cycles, pairs = {}, {}
    for step, last in zip((-1, 1), window.ends, strict=True):
        back = start_chain(label)
        for far, outs, _ in _outward(window, flow, step, abs(last - target)):
            onward, homeward = flow_back.between(window, [min(far, far - step)])[0].towards(step)
            back = extend_near(back, homeward, onward)
            there, offset = window.frame(far), far - target
            image, distance = image_of(there), abs(offset)
            backs, back = _ways(back, there, frame, image_here, flow_back)
            loops = _pair(outs, backs[::-1] if crossed else backs)
            cycles[offset] = join_sources([cycle_evidence(label, image, frame, *loop, distance) for loop in loops])
            if far in window.labels:
                theirs = [anchor_evidence(window.labels[far], image, frame, way, distance) for way in outs]
                pairs[offset] = join_sources(theirs)
    return cycles, pairs


def _pair(outs: list[Chain], backs: list[Chain]) -> list[tuple[Chain, Chain]]:
    """Ways out and ways back, one or two of each; the only one goes with both."""
    count = max(len(outs), len(backs))
    return list(zip(outs * (count // len(outs)), backs * (count // len(backs)), strict=True))


def visit(
    window: ClipBatch, flow: FlowCache, ask_teacher: Callable[[Tensor], Tensor], at_most: int
) -> dict[int, Visit]:
    """Look at frames without a label as inference does.

    Args:
        window: A labelled frame with its neighbours.
        flow: Flow between frames.
        ask_teacher: From a frame to p^S, (C, H, W).
        at_most: How many frames on each side of the labelled one, spread over the half of the way to the next anchor
            that is nearer to it; over the whole way where there is no other anchor.

    Returns:
        What was seen, by the frame's offset from the labelled one.
    """
    target, visits = window.targets[0], {}
    for step, last in zip((-1, 1), window.ends, strict=True):
        others = [anchor for anchor in window.labels if (anchor - target) * step > 0]
        end = min(others, key=lambda anchor: abs(anchor - target)) if others else last
        reach = abs(end - target) // (2 if others else 1)
        if not reach:
            continue
        wanted = {target + step * max(1, round(reach * (n + 1) / at_most)) for n in range(at_most)}
        ways = {far: way for far, _, way in _outward(window, flow, step, reach) if far in wanted}
        stretch = replace(window, targets=(min(target, end), max(target, end) + 1))
        for far, evidence in walk_interval(stretch, flow):
            if far in ways and evidence is not None:
                way, semantic = ways[far], ask_teacher(window.frame(far))
                visits[far - target] = Visit(evidence, semantic.half(), way.flow[0], way.error[0])
    return visits


def _outward(window: ClipBatch, flow: FlowCache, step: int, reach: int) -> Iterator[tuple[int, list[Chain], Chain]]:
    """Each frame from the target on, the ways from the target to it, and the better of these, pixel by pixel."""
    target = window.targets[0]
    frame = window.frame(target)
    out = start_chain(frame[0])
    for far in range(target + step, target + step * (reach + 1), step):
        onward, homeward = flow.between(window, [min(far, far - step)])[0].towards(step)
        out = extend_far(out, onward, homeward)
        there = window.frame(far)
        outs, out = _ways(out, frame, there, image_of(there), flow)
        yield far, outs, out


def _ways(chain: Chain, frame: Tensor, far: Tensor, image: Sampler, flow: FlowCache) -> tuple[list[Chain], Chain]:
    """The chains of the sources between two frames, as at inference, and the one to go on from."""
    if not flow.any_frames:
        return [chain], chain
    direct = direct_flow(chain, flow, frame, far)
    errors = [photometric_error_along(frame[None], image, way.flow)[0] for way in (chain, direct)]
    return [chain, direct], without_drift(chain, direct, torch.stack(errors))
