"""Labels warped from a keyframe, or along a cycle.

A cycle ends at the frame where it starts, whose truth is known: it gives labels with the noise of propagation, from
which the refiner learns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import convert, hide
from wrp.geometry.composed import ComposedFlow
from wrp.geometry.consistency import photometric_error_along, to_unit
from wrp.geometry.fusion import WarpedLabels
from wrp.geometry.warp import Sampler, compose, in_frame, warp_labels


def warp_keyframe(label: Tensor, image: Sampler, query: Tensor, composed: ComposedFlow, distance: int) -> WarpedLabels:
    """Warp the label of a keyframe to a query frame along a composed flow, with the tests of that flow.

    Args:
        label: y_a, (H, W) uint8.
        image: I_a, see :func:`image_of`.
        query: I_j, (3, H, W) uint8.
        composed: The composed flow j → a.
        distance: ``|j - a|`` in frames.

    Returns:
        Warped labels of one source, whose keyframe has number 0.

    Example:
        >>> from wrp.geometry.composed import identity_flow
        >>> frame, label = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.ones(4, 6, dtype=torch.uint8)
        >>> warped = warp_keyframe(label, image_of(frame), frame, identity_flow(label), distance=1)
        >>> warped.labels.shape, warped.distance
        (torch.Size([1, 4, 6]), tensor([1.]))
    """
    return _warped(warp_labels(label[None], composed.flow), image, query, composed, distance)


def warp_cycle(
    label: Tensor, image: Sampler, query: Tensor, composed_out: ComposedFlow, composed_back: ComposedFlow, distance: int
) -> WarpedLabels:
    """Warp the label of a frame t along the cycle t → b → t (paper), as if b had been its keyframe.

    ỹ_t(x) = y_t(x + F_{t→b}(x) + F'_{b→t}(x + F_{t→b}(x))). The tests use F_{t→b} alone (ours): the residual of both
    flows together *is* the displacement of the cycle, and a mask made from it would be better than any at inference.

    Args:
        label: y_t, (H, W) uint8.
        image: I_b, see :func:`image_of`.
        query: I_t, (3, H, W) uint8.
        composed_out: The composed flow t → b.
        composed_back: The composed flow b → t.
        distance: ``|t - b|`` in frames.

    Returns:
        Warped labels of one source, whose keyframe has number 0.

    Example:
        >>> from wrp.geometry.composed import identity_flow
        >>> frame, label = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.ones(4, 6, dtype=torch.uint8)
        >>> flow = identity_flow(label)
        >>> warp_cycle(label, image_of(frame), frame, flow, flow, distance=2).labels.unique().tolist()
        [1]
    """
    returned = compose(composed_out.flow, composed_back.flow)
    labels = hide(warp_labels(label[None], returned), in_frame(composed_out.flow))
    return _warped(labels, image, query, composed_out, distance)


def image_of(frame: Tensor) -> Sampler:
    """Prepare a frame (3, H, W) uint8 for being sampled from other frames.

    Example:
        >>> image = image_of(torch.full((3, 1, 2), 255, dtype=torch.uint8))
        >>> image.along(torch.zeros(1, 2, 1, 2))[0].shape
        torch.Size([1, 3, 1, 2])
    """
    return Sampler(to_unit(frame)[None])


def _warped(labels: Tensor, image: Sampler, query: Tensor, composed: ComposedFlow, distance: int) -> WarpedLabels:
    # Where the composed flow ends out of frame, this error means nothing, but there is no label to be weighted by it.
    photometric = convert(photometric_error_along(query[None], image, composed.flow), torch.float16)
    away = composed.flow.new_full((1,), float(distance))  # made on the device: a copy to it would wait for it
    return WarpedLabels(labels, composed.error, photometric, away, torch.zeros_like(away, dtype=torch.long))
