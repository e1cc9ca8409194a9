"""Flow that is known, and a window of three frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wrp.flow.estimator import FlowEstimator
from wrp.structures import ClipBatch, FramePair
from wrp.testing import texture

SIZE = (24, 40)


class Constant(FlowEstimator):
    """Frames slide by one pixel, and that is what direct flow says; the flow between neighbours says two.

    Args:
        direct: Whether there is flow between any frames.
    """

    def __init__(self, direct: bool) -> None:
        super().__init__()
        self.any_frames = direct

    @property
    def signature(self) -> str:
        return "constant"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        # Forward and backward take turns by halves, see FlowEstimator.between.
        flow = torch.zeros(len(frames_s), 2, *frames_s.shape[2:])
        half = len(frames_s) // 2
        flow[:half, 0], flow[half:, 0] = 2, -2
        return flow

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        return torch.stack((start[:, 0].sign(), start[:, 1]), 1)


class Slow(Constant):
    """Frames stand still, and all flows say so."""

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        return torch.zeros(len(frames_s), 2, *frames_s.shape[2:])

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        return torch.zeros_like(start)


def window() -> ClipBatch:
    frames = [texture(*SIZE, i) for i in range(3)]
    label = (torch.arange(SIZE[1]) // 8 % 3).to(torch.uint8).expand(SIZE).contiguous()
    return ClipBatch("clip", ["0", "1", "2"], 0, frames, {1: label}, (1, 2))
