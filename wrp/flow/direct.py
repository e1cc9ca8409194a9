"""Direct flow against drift (ours): flow between distant frames, estimated from the composed flow as the initial flow.

Errors of neighbouring flows add up in a composed flow. A direct estimate between its two ends has no drift, but
confuses what looks alike; started from the composed flow it seldom does. Labels are warped along both, as two sources,
and composition goes on from the one that fits the images better. Gains are measured by
experiments/propagation/motion.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.flow.source import FlowSource, Way
from wrp.geometry.composed import ComposedFlow, replace_flow
from wrp.structures import ClipBatch

# By how much the direct flow's photometric error must be smaller for composition to go on from it.
GAIN = 0.01


def direct_flow(
    composed: ComposedFlow, flow: FlowSource, batch: ClipBatch, index: int, far: int, way: Way
) -> ComposedFlow:
    """Estimate the flow between two distant frames, from the composed flow between them as the initial flow.

    Args:
        composed: The composed flow j → a, corrected by :func:`without_drift` at each step.
        flow: Flow between any two frames.
        batch: Frames of one clip.
        index: j, the index of a frame in the clip.
        far: a.
        way: How the composed flow has grown.

    Returns:
        j → a with the direct flow, and the motion-error mask of the composed flow.

    Example:
        >>> from wrp.flow.dis import DIS
        >>> from wrp.geometry.composed import identity_flow
        >>> frames = list(torch.zeros(3, 3, 32, 48, dtype=torch.uint8))
        >>> batch = ClipBatch("clip", stems=["0", "1", "2"], first=0, frames=frames, labels={}, queries=(0, 3))
        >>> direct_flow(identity_flow(frames[0][0]), DIS(), batch, index=2, far=0, way="prepend").flow.shape
        torch.Size([1, 2, 32, 48])
    """
    return replace_flow(composed, flow.direct(batch, index, far, composed.flow, way))


def without_drift(composed: ComposedFlow, direct: ComposedFlow, photometric: Tensor) -> ComposedFlow:
    """Choose, at each pixel, the flow from which composition goes on.

    Args:
        composed: The flow j → a composed of neighbouring flows.
        direct: The flow j → a from :func:`direct_flow`.
        photometric: Photometric errors of the composed and of the direct flow, (2, H, W) in [0, 1].

    Returns:
        j → a with the direct flow where its error is smaller by more than :data:`GAIN`, else with the composed flow.

    Example:
        >>> from wrp.geometry.composed import identity_flow
        >>> composed = identity_flow(torch.zeros(1, 2))
        >>> direct = replace_flow(composed, torch.full((1, 2, 1, 2), 0.25))
        >>> without_drift(composed, direct, torch.tensor([[[0.5, 0.5]], [[0.5, 0.1]]])).flow[0, 0]
        tensor([[0.0000, 0.2500]])
    """
    # Warped labels hold their errors in this precision: cycles and propagation have to choose the same.
    composed_error, direct_error = photometric.half()
    better = direct_error < composed_error - GAIN
    return replace_flow(composed, torch.where(better, direct.flow, composed.flow))
