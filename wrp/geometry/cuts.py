"""Cuts: where two neighbouring frames of a video show different scenes, so that no motion leads from one to the other.

Fast motion looks much the same to an optical flow: it fails in both cases. A cut (ours) leaves nothing of the structure
of the frame, and changes its colours as well, or changes it far more than the frames before and behind change. A flash
leaves the structure; fast motion leaves the colours, and goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.backends.cpu import serves
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.consistency import forward_backward_error, to_unit
from wrp.geometry.warp import Sampler

# Frames are compared at this height or width in pixels, whichever is greater.
SIDE = 128

# Levels of each colour in the histogram.
LEVELS = 8

# Side of the windows over which structure is compared, odd, in pixels.
WINDOW = 9

# Windows whose standard deviation is below this one, of values in [0, 1], have no structure.
FLAT = 0.01

# Two frames show different scenes if the correlation of their structure is below STRUCTURE, and either more than the
# ratio COLOURS of the pixels has to change its colour, or the brightness changes by more than CHANGE, of 1, and JUMP
# times as much as before and behind the two; chosen by experiments/propagation/cuts.py.
STRUCTURE = 0.2
COLOURS = 0.26
CHANGE = 0.05
JUMP = 2.0

LOST = 2.0**14
"""Both components of the flow across a cut, in pixels: it leads out of any frame."""


def is_cut(
    frames_s: Tensor, frames_t: Tensor, flow: NeighbourFlow, before: Tensor | None = None, behind: Tensor | None = None
) -> Tensor:
    """Tell whether neighbouring frames show different scenes.

    Args:
        frames_s: The earlier ones, (B, 3, H, W) uint8 RGB.
        frames_t: The later ones, the same shape and dtype.
        flow: The flows between them.
        before: The frames before the earlier ones; None if they are not known.
        behind: The frames behind the later ones; None if they are not known.

    Returns:
        (B,) bool, on the device of the frames.

    Example:
        >>> ramp = torch.linspace(0, 255, 64).byte().expand(1, 3, 48, 64)
        >>> still = NeighbourFlow(torch.zeros(1, 2, 48, 64), torch.zeros(1, 2, 48, 64))
        >>> is_cut(ramp, ramp // 2, still), is_cut(ramp, torch.full_like(ramp, 200), still)
        (tensor([False]), tensor([True]))
        >>> is_cut(ramp, ramp.flip(3), still), is_cut(ramp, ramp.flip(3), still, before=ramp)
        (tensor([False]), tensor([True]))
    """
    first, second = _small(frames_s), _small(frames_t)
    cut = _may_be_cut(first, second, before, behind)
    if serves(cut) and not cut.numpy().any():  # as for nearly all pairs; to ask a GPU would wait for it
        return cut
    return cut & (_structure(first, second, flow) < STRUCTURE)


def may_be_cut(
    frames_s: Tensor, frames_t: Tensor, before: Tensor | None = None, behind: Tensor | None = None
) -> Tensor:
    """Tell between which frames :func:`is_cut` needs the flow: elsewhere there is none, whatever the flow.

    Args:
        frames_s: The earlier ones, (B, 3, H, W) uint8 RGB.
        frames_t: The later ones, the same shape and dtype.
        before: See :func:`is_cut`.
        behind: See :func:`is_cut`.

    Returns:
        (B,) bool, on the device of the frames.

    Example:
        >>> ramp = torch.linspace(0, 255, 64).byte().expand(1, 3, 48, 64)
        >>> may_be_cut(ramp, ramp), may_be_cut(ramp, torch.full_like(ramp, 200))
        (tensor([False]), tensor([True]))
    """
    return _may_be_cut(_small(frames_s), _small(frames_t), before, behind)


def lose(flow: NeighbourFlow, cut: Tensor) -> NeighbourFlow:
    """Return two flows, or flows that lead out of the frame where there is a cut between their frames.

    All that is composed of such flows leads out of the frame as well, so that nothing is warped across the cut.

    Args:
        flow: The flows between two frames.
        cut: Whether there is a cut, scalar bool.

    Example:
        >>> still = NeighbourFlow(torch.zeros(1, 2, 4, 6), torch.zeros(1, 2, 4, 6))
        >>> lose(still, torch.tensor(True)).flow_fw.unique()
        tensor([16384.])
    """
    if serves(cut) and not cut.numpy():
        return flow
    return NeighbourFlow(*(one.masked_fill(cut, LOST) for one in (flow.flow_fw, flow.flow_bw)))


def is_lost(flow: Tensor) -> Tensor:
    """Return which pixels of a flow (B, 2, H, W) lead across a cut, (B, H, W) bool.

    Example:
        >>> is_lost(torch.tensor([0.0, LOST]).view(1, 1, 1, 2).expand(1, 2, 1, 2))
        tensor([[[False,  True]]])
    """
    return flow[:, 0] > LOST / 2


def compare(frames_s: Tensor, frames_t: Tensor, flow: NeighbourFlow) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the colours, the brightness and the structure of neighbouring frames.

    Args:
        frames_s: The earlier ones, (B, 3, H, W) uint8 RGB.
        frames_t: The later ones, the same shape and dtype.
        flow: The flows between them.

    Returns:
        The ratio of the pixels that would have to change their colour for equal histograms, (B,) float32 in [0, 1].
        The mean absolute change of the brightness of a pixel, (B,) float32 in [0, 1]. The correlation of the brightness
        in windows of frame s with frame t along the flow, (B,) float32 in [-1, 1]: the mean over those that have
        structure in either frame, 1 if none has. Where the flow fails the forward-backward test it is 0, as a flow that
        may lead anywhere finds something similar in any frame.

    Example:
        >>> ramp = torch.linspace(0, 255, 64).byte().expand(1, 3, 48, 64)
        >>> still = NeighbourFlow(torch.zeros(1, 2, 48, 64), torch.zeros(1, 2, 48, 64))
        >>> colours, change, structure = compare(ramp, ramp, still)
        >>> colours.item(), change.item(), round(structure.item(), 2)
        (0.0, 0.0, 1.0)
    """
    first, second = _small(frames_s), _small(frames_t)
    return _changed_colours(first, second), _change(first, second), _structure(first, second, flow)


def _small(frames: Tensor) -> Tensor:
    """Return frames (B, 3, H, W) in [0, 1], reduced to at most :data:`SIDE` pixels on either side."""
    scale = min(1.0, SIDE / max(frames.shape[-2:]))
    size = [max(1, round(side * scale)) for side in frames.shape[-2:]]
    return functional.interpolate(to_unit(frames), size, mode="area")


def _may_be_cut(first: Tensor, second: Tensor, before: Tensor | None, behind: Tensor | None) -> Tensor:
    cut, change = _changed_colours(first, second) > COLOURS, _change(first, second)
    jump = change > CHANGE
    if (before is None and behind is None) or (serves(jump) and not jump.numpy().any()):
        return cut
    if before is not None:
        jump &= change > JUMP * _change(_small(before), first)
    if behind is not None:
        jump &= change > JUMP * _change(second, _small(behind))
    return cut | jump


def _change(first: Tensor, second: Tensor) -> Tensor:
    return (first.mean(1) - second.mean(1)).abs().flatten(1).mean(1)


def _changed_colours(first: Tensor, second: Tensor) -> Tensor:
    return (_histogram(first) - _histogram(second)).abs().sum(1) / 2


def _structure(first: Tensor, second: Tensor, flow: NeighbourFlow) -> Tensor:
    onward, small = flow.flow_fw.float(), first.shape[-2:]
    right = (~forward_backward_error(onward, flow.flow_bw.float())).float()[:, None]
    motion = functional.interpolate(onward, small, mode="area")
    ratios = [few / many for few, many in zip(small[::-1], onward.shape[:1:-1], strict=True)]
    motion = torch.stack([part * ratio for part, ratio in zip(motion.unbind(1), ratios, strict=True)], 1)
    [other] = Sampler(second.mean(1, keepdim=True)).along(motion)
    return _correlation(first.mean(1, keepdim=True), other, functional.interpolate(right, small, mode="area"))


def _histogram(images: Tensor) -> Tensor:
    """Return the ratio of the pixels of each colour, smoothed over neighbouring colours, (B, LEVELS³) float32."""
    level = (images * LEVELS).long().clamp(max=LEVELS - 1)
    colour = (level[:, 0] * LEVELS + level[:, 1]) * LEVELS + level[:, 2]
    counts = images.new_zeros(len(images), LEVELS**3)
    counts.scatter_add_(1, colour.flatten(1), torch.ones_like(images[:, 0]).flatten(1))
    # Noise and light move colours across a level.
    cube = counts.view(-1, 1, LEVELS, LEVELS, LEVELS)
    cube = functional.avg_pool3d(cube, 3, 1, 1, count_include_pad=False)
    return cube.flatten(1) / cube.flatten(1).sum(1, keepdim=True)


def _correlation(image: Tensor, other: Tensor, right: Tensor) -> Tensor:
    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    middle, of_other = mean(image), mean(other)
    spread = (mean(image * image) - middle**2).clamp(min=0)
    of_spread = (mean(other * other) - of_other**2).clamp(min=0)
    common = mean(image * other) - middle * of_other
    structured = torch.maximum(spread, of_spread) > FLAT**2
    correlation = common / (spread * of_spread).sqrt().clamp(min=FLAT**2)
    count = structured.flatten(1).sum(1)
    total = (correlation * right * structured).flatten(1).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)
