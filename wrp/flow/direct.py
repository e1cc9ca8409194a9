"""Direct flow against drift (ours): the flow between distant frames, started from the composed flow.

Errors of neighbouring flows add up along a chain. A direct estimate between its two ends has no drift, but takes what
looks alike for the same; started from the composed flow it seldom does. Both are sources of their own, and the chain
goes on from the one that fits the images better. Gains are measured by experiments/propagation/motion.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.flow.source import FlowSource
from wrp.geometry.composed import ComposedFlow, replace_flow

# By how much the direct flow's photometric error must be smaller for the chain to go on from it.
GAIN = 0.01


def direct_flow(composed: ComposedFlow, flow: FlowSource, frame: Tensor, far: Tensor) -> ComposedFlow:
    """The chain between two frames (3, H, W) uint8 with the flow that is estimated between them, started from it."""
    return replace_flow(composed, flow(frame[None], far[None], start=composed.flow))


def without_drift(composed: ComposedFlow, direct: ComposedFlow, photometric: Tensor) -> ComposedFlow:
    """The chain to go on from.

    Args:
        composed: The chain that was composed of neighbouring flows.
        direct: The same from :func:`direct_flow`.
        photometric: Photometric error of both, (2, H, W).
    """
    better = photometric[1] < photometric[0] - GAIN
    return replace_flow(composed, torch.where(better, direct.flow, composed.flow))
