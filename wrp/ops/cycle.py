"""Labels with the noise of propagation at frames whose truth is known: what the refiner learns from."""

from __future__ import annotations

from torch import Tensor

from wrp.ops.chain import Chain
from wrp.ops.consistency import photometric_error
from wrp.ops.fusion import Evidence
from wrp.ops.warp import compose, sample, sample_nearest, warp_labels
from wrp.types import IGNORE_INDEX


def anchor_evidence(label: Tensor, frame: Tensor, target: Tensor, chain: Chain, distance: int) -> Evidence:
    """What one anchor says about a target: its label through the composed flow, with the tests of that flow.

    Args:
        label: y_a, (H, W) uint8.
        frame: I_a, (3, H, W) float32 in [0, 1].
        target: I_j, like ``frame``.
        chain: The chain j → a.
        distance: |j - a| in frames.

    Returns:
        Evidence of one source.
    """
    coords, inside = chain.landing
    labels = sample_nearest(label[None], coords).masked_fill(~inside, IGNORE_INDEX)
    return _evidence(labels, frame, target, chain, distance)


def cycle_evidence(
    label: Tensor, frame: Tensor, target: Tensor, chain_out: Chain, chain_back: Chain, distance: int
) -> Evidence:
    """The label of a frame t after the cycle t → b → t (paper), as if b had been its anchor.

    ỹ_t(x) = y_t(x + F_{t→b}(x) + F'_{b→t}(x + F_{t→b}(x))). The tests look at F_{t→b} alone (ours): the residual of
    both flows together *is* the displacement of the cycle, and a mask made of it would be better than any at inference.

    Args:
        label: y_t, (H, W) uint8.
        frame: I_b, (3, H, W) float32 in [0, 1].
        target: I_t, like ``frame``.
        chain_out: The chain t → b.
        chain_back: The chain b → t.
        distance: |t - b| in frames.

    Returns:
        Evidence of one source.
    """
    returned, inside = compose(chain_out.flow, chain_back.flow)
    labels = warp_labels(label[None], returned).masked_fill(~inside, IGNORE_INDEX)
    return _evidence(labels, frame, target, chain_out, distance)


def _evidence(labels: Tensor, frame: Tensor, target: Tensor, chain: Chain, distance: int) -> Evidence:
    # Where the chain ends out of frame, there is no label whose weight would follow from this error.
    warped = sample(frame[None], chain.landing[0])
    photometric = photometric_error(target[None], warped).half()
    return Evidence(labels, chain.error, photometric, chain.flow.new_tensor([float(distance)]))
