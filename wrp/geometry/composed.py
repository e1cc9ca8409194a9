"""Composed flow: the flow to a far frame, composed of neighbouring flows at a constant cost per step.

A composed flow between frames j and a holds F_{j→a} and the motion-error mask of the neighbouring flows that it was
made of. Propagation prepends neighbouring flows at the near end (the query frame moves away from the keyframe); the
cycle of refiner training appends them at the far end (the other frame moves away from the labelled one).
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
    """The composed flow from frame j to frame a, with its motion-error mask.

    Whether the point is in frame a follows from where the flow ends; a mask of that, carried along, would be resampled
    at every step and drift.

    Attributes:
        flow: F_{j→a}, (B, 2, H, W) float32 in pixels; an extrapolation where the point left the frame on its way.
        error: Motion-error mask (B, H, W) bool: on the way, some neighbouring pair failed the forward-backward test, or
            the point left the frame.

    Example:
        >>> composed = ComposedFlow(flow=torch.zeros(1, 2, 4, 6), error=torch.zeros(1, 4, 6, dtype=torch.bool))
        >>> composed.flow.shape
        torch.Size([1, 2, 4, 6])
    """

    flow: Tensor
    error: Tensor


@dataclass
class NeighbourFlow:
    """The two flows between neighbouring frames i and i + 1.

    Attributes:
        flow_fw: From frame i to frame i + 1, (B, 2, H, W) float32 in pixels.
        flow_bw: From frame i + 1 to frame i, the same shape.

    Example:
        >>> neighbour = NeighbourFlow(flow_fw=torch.ones(1, 2, 4, 6), flow_bw=-torch.ones(1, 2, 4, 6))
        >>> onward, back = neighbour.towards(-1)
        >>> onward.unique().tolist(), back.unique().tolist()
        ([-1.0], [1.0])
    """

    flow_fw: Tensor
    flow_bw: Tensor

    def towards(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the flow one step forward (``step`` > 0) or backward in time, and the flow that returns."""
        return (self.flow_fw, self.flow_bw) if step > 0 else (self.flow_bw, self.flow_fw)


def identity_flow(label: Tensor) -> ComposedFlow:
    """Return the composed flow from a frame to itself: zero, without motion error.

    Args:
        label: Gives the size and the device, (H, W).

    Example:
        >>> composed = identity_flow(torch.zeros(4, 6))
        >>> composed.flow.shape, composed.error.any()
        (torch.Size([1, 2, 4, 6]), tensor(False))
    """
    return ComposedFlow(zeros((1, 2, *label.shape), torch.float32, label), zeros((1, *label.shape), torch.bool, label))


def prepend_flow(
    composed: ComposedFlow, flow_ji: Tensor, flow_ij: Tensor, alpha: float = 0.01, beta: float = 0.5
) -> ComposedFlow:
    """Turn the composed flow i → a into j → a, where j and i are neighbours.

    Args:
        composed: i → a.
        flow_ji: F_{j→i}, (B, 2, H, W) in pixels.
        flow_ij: F_{i→j}, (B, 2, H, W) in pixels.
        alpha: See :func:`~wrp.geometry.consistency.forward_backward_error`.
        beta: See there.

    Returns:
        The composed flow j → a.

    Example:
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> composed = prepend_flow(identity_flow(torch.zeros(1, 3)), flow_ji=right, flow_ij=-right)
        >>> composed.flow[0, 0].tolist(), composed.error.tolist()
        ([[1.0, 1.0, 1.0]], [[[False, False, True]]])
    """
    # One pass for both: the flow back, for the test, and the rest of the composed flow are sampled at the same points.
    back, onward = Sampler(flow_ij, composed.flow).along(flow_ji)
    failed = disagree(flow_ji, back, alpha, beta)
    return _composed(finite(add(flow_ji.float(), onward)), either(failed, warp_labels(composed.error, flow_ji, True)))


def append_flow(
    composed: ComposedFlow, flow_ib: Tensor, flow_bi: Tensor, alpha: float = 0.01, beta: float = 0.5
) -> ComposedFlow:
    """Turn the composed flow t → i into t → b, where i and b are neighbours.

    Args:
        composed: t → i.
        flow_ib: F_{i→b}, (B, 2, H, W) in pixels.
        flow_bi: F_{b→i}, (B, 2, H, W) in pixels.
        alpha: See :func:`~wrp.geometry.consistency.forward_backward_error`.
        beta: See there.

    Returns:
        The composed flow t → b.

    Example:
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> composed = append_flow(identity_flow(torch.zeros(1, 3)), flow_ib=right, flow_bi=-right)
        >>> composed.flow[0, 0].tolist(), composed.error.tolist()
        ([[1.0, 1.0, 1.0]], [[[False, False, True]]])
    """
    failed = forward_backward_error(flow_ib, flow_bi, alpha, beta)
    return _composed(
        finite(compose(composed.flow, flow_ib)), either(composed.error, warp_labels(failed, composed.flow, True))
    )


def replace_flow(composed: ComposedFlow, flow: Tensor) -> ComposedFlow:
    """Return a composed flow with another flow (B, 2, H, W) between its ends, in pixels, and its motion-error mask.

    Where the new flow leads out of the frame or is not finite is a motion error as well.

    Example:
        >>> composed = replace_flow(identity_flow(torch.zeros(1, 3)), torch.ones(1, 2, 1, 3))
        >>> composed.flow.unique().tolist(), composed.error.all()
        ([1.0], tensor(True))
    """
    return _composed(finite(flow), composed.error)


def _composed(flow: Tensor, failed: Tensor) -> ComposedFlow:
    return ComposedFlow(flow, either(failed, out_of_frame(flow)))
