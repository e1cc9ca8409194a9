"""Labels with the noise of propagation at frames whose truth is known: what the refiner learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import convert, hide
from wrp.geometry.composed import ComposedFlow
from wrp.geometry.consistency import photometric_error_along, to_unit
from wrp.geometry.fusion import WarpedLabels
from wrp.geometry.warp import Sampler, compose, in_frame, warp_labels


def warp_keyframe(label: Tensor, image: Sampler, query: Tensor, composed: ComposedFlow, distance: int) -> WarpedLabels:
    """What one keyframe says about a target: its label through the composed flow, with the tests of that flow.

    Args:
        label: y_a, (H, W) uint8.
        image: I_a, see :func:`image_of`.
        target: I_j, (3, H, W) uint8.
        chain: The chain j → a.
        distance: ``|j - a|`` in frames.

    Returns:
        Evidence of one source.
    """
    return _warped(warp_labels(label[None], composed.flow), image, query, composed, distance)


def warp_cycle(
    label: Tensor, image: Sampler, query: Tensor, composed_out: ComposedFlow, composed_back: ComposedFlow, distance: int
) -> WarpedLabels:
    """The label of a frame t after the cycle t → b → t (paper), as if b had been its keyframe.

    ỹ_t(x) = y_t(x + F_{t→b}(x) + F'_{b→t}(x + F_{t→b}(x))). The tests look at F_{t→b} alone (ours): the residual of
    both flows together *is* the displacement of the cycle, and a mask made of it would be better than any at inference.

    Args:
        label: y_t, (H, W) uint8.
        image: I_b, see :func:`image_of`.
        target: I_t, (3, H, W) uint8.
        chain_out: The chain t → b.
        chain_back: The chain b → t.
        distance: ``|t - b|`` in frames.

    Returns:
        Evidence of one source.
    """
    returned = compose(composed_out.flow, composed_back.flow)
    labels = hide(warp_labels(label[None], returned), in_frame(composed_out.flow))
    return _warped(labels, image, query, composed_out, distance)


def image_of(frame: Tensor) -> Sampler:
    """A frame (3, H, W) uint8, to be seen from others."""
    return Sampler(to_unit(frame)[None])


def _warped(labels: Tensor, image: Sampler, query: Tensor, composed: ComposedFlow, distance: int) -> WarpedLabels:
    # Where the chain ends out of frame, there is no label whose weight would follow from this error.
    photometric = convert(photometric_error_along(query[None], image, composed.flow), torch.float16)
    away = composed.flow.new_tensor([float(distance)])
    return WarpedLabels(labels, composed.error, photometric, away, torch.zeros_like(away, dtype=torch.long))
