"""Labels with the noise of propagation at frames whose truth is known: what the refiner learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import convert, hide
from wrp.geometry.composed import Chain
from wrp.geometry.consistency import photometric_error_along, to_unit
from wrp.geometry.fusion import Evidence
from wrp.geometry.warp import Sampler, compose, in_frame, warp_labels


def anchor_evidence(label: Tensor, image: Sampler, target: Tensor, chain: Chain, distance: int) -> Evidence:
    """What one anchor says about a target: its label through the composed flow, with the tests of that flow.

    Args:
        label: y_a, (H, W) uint8.
        image: I_a, see :func:`image_of`.
        target: I_j, (3, H, W) uint8.
        chain: The chain j → a.
        distance: ``|j - a|`` in frames.

    Returns:
        Evidence of one source.
    """
    return _evidence(warp_labels(label[None], chain.flow), image, target, chain, distance)


def cycle_evidence(
    label: Tensor, image: Sampler, target: Tensor, chain_out: Chain, chain_back: Chain, distance: int
) -> Evidence:
    """The label of a frame t after the cycle t → b → t (paper), as if b had been its anchor.

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
    returned = compose(chain_out.flow, chain_back.flow)
    labels = hide(warp_labels(label[None], returned), in_frame(chain_out.flow))
    return _evidence(labels, image, target, chain_out, distance)


def image_of(frame: Tensor) -> Sampler:
    """A frame (3, H, W) uint8, to be seen from others."""
    return Sampler(to_unit(frame)[None])


def _evidence(labels: Tensor, image: Sampler, target: Tensor, chain: Chain, distance: int) -> Evidence:
    # Where the chain ends out of frame, there is no label whose weight would follow from this error.
    photometric = convert(photometric_error_along(target[None], image, chain.flow), torch.float16)
    away = chain.flow.new_tensor([float(distance)])
    return Evidence(labels, chain.error, photometric, away, torch.zeros_like(away, dtype=torch.long))
