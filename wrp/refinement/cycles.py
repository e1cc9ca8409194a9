"""Cycles from a labelled frame to another frame and back, and keyframe pairs: the refiner's training material."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wrp.flow.direct import direct_flow, without_drift
from wrp.flow.source import FlowSource, Way
from wrp.geometry.composed import ComposedFlow, append_flow, identity_flow, prepend_flow
from wrp.geometry.consistency import photometric_error_along
from wrp.geometry.cycle import image_of, warp_cycle, warp_keyframe
from wrp.geometry.fusion import WarpedLabels, join_sources
from wrp.geometry.warp import Sampler
from wrp.structures import ClipBatch

Cycles = dict[int, WarpedLabels]
"""Warped labels by offset: that of the frame in the middle of a cycle, or of the other keyframe of a pair."""


def make_cycles(window: ClipBatch, flow: FlowSource, crossed: bool) -> tuple[Cycles, Cycles]:
    """Warp the labels of a window to its labelled frame t: its own by cycles, those of other keyframes directly.

    Args:
        window: A labelled frame t with its neighbours.
        flow: Flow between frames.
        crossed: Whether a cycle goes out along the composed flow and back along the direct one, and the other way
            round.

    Returns:
        The label of t after the cycle t → t+k → t for each k of the window, and the labels of the keyframes at t+k,
        warped to t; both by the offset k.
    """
    query = window.queries[0]
    frame, label = window.frame(query), window.labels[query]
    image_here = image_of(frame)
    cycles, pairs = {}, {}
    for step, last in zip((-1, 1), window.ends, strict=True):
        back = identity_flow(label)
        for far, outs, onward, homeward in _outward(window, flow, step, abs(last - query)):
            back = prepend_flow(back, homeward, onward)
            there, offset = window.frame(far), far - query
            image, distance = image_of(there), abs(offset)
            backs, back = _ways(back, window, far, query, image_here, flow, "prepend")
            loops = zip(outs, backs[::-1] if crossed else backs, strict=True)
            cycles[offset] = join_sources([warp_cycle(label, image, frame, *loop, distance) for loop in loops])
            if far in window.labels:
                theirs = [warp_keyframe(window.labels[far], image, frame, way, distance) for way in outs]
                pairs[offset] = join_sources(theirs)
    return cycles, pairs


def _outward(
    window: ClipBatch, flow: FlowSource, step: int, count: int
) -> Iterator[tuple[int, list[ComposedFlow], Tensor, Tensor]]:
    """Yield each frame from the labelled one on, the composed flows to it, and the flow from and to its predecessor."""
    query = window.queries[0]
    out = identity_flow(window.labels[query])
    for far in range(query + step, query + step * (count + 1), step):
        onward, homeward = flow.between(window, [min(far, far - step)])[0].towards(step)
        out = append_flow(out, onward, homeward)
        outs, out = _ways(out, window, query, far, image_of(window.frame(far)), flow, "append")
        yield far, outs, onward, homeward


def _ways(
    composed: ComposedFlow, window: ClipBatch, index: int, far: int, image: Sampler, flow: FlowSource, way: Way
) -> tuple[list[ComposedFlow], ComposedFlow]:
    """Return the composed flow of each source between two frames, as at inference, and the one to continue from."""
    if not flow.any_frames:
        return [composed], composed
    direct = direct_flow(composed, flow, window, index, far, way)
    frame = window.frame(index)[None]
    errors = [photometric_error_along(frame, image, one.flow)[0] for one in (composed, direct)]
    return [composed, direct], without_drift(composed, direct, torch.stack(errors))
