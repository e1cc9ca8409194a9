"""Running composition: the flow to a far frame, extended by one neighbour at a constant cost per step.

A chain between frames j and a holds the composed flow F_{j→a} and the motion-error mask of the neighbouring flows it
was made of. Propagation extends it at the near end (the target walks away from the keyframe); the cycle of refiner
training extends it at the far end (the other frame walks away from the labelled one).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import add, either, zeros
from wrp.geometry.consistency import disagree, forward_backward_error
from wrp.geometry.warp import Sampler, compose, finite, out_of_frame, warp_labels


@dataclass
class ComposedFlow:
    """What is known of the way from frame j to frame a.

    Whether the point is in frame a follows from where the flow ends; a mask carried along the chain would be resampled
    at every step and drift.

    Attributes:
        flow: F_{j→a}, (B, 2, H, W) float32 in pixels; a guess where the point left the frame on its way.
        error: Motion-error mask (B, H, W) bool: on the way, some neighbouring pair failed the forward-backward test, or
            the point left the frame.
    """

    flow: Tensor
    error: Tensor


@dataclass
class NeighbourFlow:
    """The two flows between neighbouring frames i and i + 1, each (B, 2, H, W) float32 in pixels."""

    flow_fw: Tensor
    flow_bw: Tensor

    def towards(self, step: int) -> tuple[Tensor, Tensor]:
        """The flow one step forward (``step`` > 0) or backward in time, and the one that returns."""
        return (self.flow_fw, self.flow_bw) if step > 0 else (self.flow_bw, self.flow_fw)


def identity_flow(label: Tensor) -> ComposedFlow:
    """The chain from a frame, whose label is (H, W), to itself."""
    return ComposedFlow(zeros((1, 2, *label.shape), torch.float32, label), zeros((1, *label.shape), torch.bool, label))


def prepend_flow(
    composed: ComposedFlow, flow_ji: Tensor, flow_ij: Tensor, alpha: float = 0.01, beta: float = 0.5
) -> ComposedFlow:
    """From the chain i → a to the chain j → a, where j and i are neighbours; α, β: the forward-backward test's."""
    # One pass for both: the way back of the test and the rest of the composed flow are sampled at the same points.
    back, onward = Sampler(flow_ij, composed.flow).along(flow_ji)
    failed = disagree(flow_ji, back, alpha, beta)
    return _composed(finite(add(flow_ji.float(), onward)), either(failed, warp_labels(composed.error, flow_ji, True)))


def append_flow(
    composed: ComposedFlow, flow_ib: Tensor, flow_bi: Tensor, alpha: float = 0.01, beta: float = 0.5
) -> ComposedFlow:
    """From the chain t → i to the chain t → b, where i and b are neighbours; α, β: the forward-backward test's."""
    failed = forward_backward_error(flow_ib, flow_bi, alpha, beta)
    return _composed(
        finite(compose(composed.flow, flow_ib)), either(composed.error, warp_labels(failed, composed.flow, True))
    )


def replace_flow(composed: ComposedFlow, flow: Tensor) -> ComposedFlow:
    """The same way with another flow (B, 2, H, W) between its ends."""
    return _composed(finite(flow), composed.error)


def _composed(flow: Tensor, failed: Tensor) -> ComposedFlow:
    return ComposedFlow(flow, either(failed, out_of_frame(flow)))
