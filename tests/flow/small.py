"""An estimator that counts, and a stretch whose frames are its flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wrp.flow.estimator import FlowEstimator
from wrp.structures import ClipBatch, FramePair


class Counting(FlowEstimator):
    """Flow that tells the first pixel of both frames, and how often it was asked."""

    def __init__(self, version: int = 1) -> None:
        super().__init__()
        self.version = version
        self.asked = 0

    @property
    def signature(self) -> str:
        return f"counting {self.version}"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        self.asked += len(frames_s)
        ends = torch.stack((frames_s[:, 0, 0, 0], frames_t[:, 0, 0, 0]), 1).float()
        return (ends[:, :, None, None] * self.version + 1 / 3).expand(-1, -1, *frames_s.shape[2:])


def stretch(values: Sequence[int], clip: str = "clip", size: tuple[int, int] = (12, 16)) -> ClipBatch:
    frames = [torch.full((3, *size), value, dtype=torch.uint8) for value in values]
    return ClipBatch(clip, [f"{value:03d}" for value in values], 0, frames, {}, (0, len(values)))
