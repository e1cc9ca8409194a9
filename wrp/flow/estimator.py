"""The interface of all flow estimators."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from wrp.ops.chain import NeighbourFlow


class FlowEstimator(nn.Module, ABC):
    """Two batches of frames in, flow out.

    Subclasses implement :meth:`estimate`. Estimators are frozen: no gradients, nothing in the ``state_dict`` of the
    module that uses them.

    Attributes:
        seconds: Time spent in estimation since construction, by the clock of the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    @abstractmethod
    def estimate(self, frames_s: Tensor, frames_t: Tensor) -> Tensor:
        """Flow F_{s→t} of frames (B, 3, H, W) uint8 RGB: (B, 2, H, W) float32 in pixels, on the frames' device."""

    @torch.no_grad()
    def forward(self, frames_s: Tensor, frames_t: Tensor) -> Tensor:
        """Check the frames and estimate F_{s→t}.

        Args:
            frames_s: (B, 3, H, W) uint8 RGB.
            frames_t: The same shape and dtype.

        Returns:
            (B, 2, H, W) float32, x and y in pixels.

        Raises:
            ValueError: If the two differ in shape, or are no uint8 RGB images.
        """
        if frames_s.shape != frames_t.shape or frames_s.ndim != 4 or frames_s.shape[1] != 3:
            raise ValueError(
                f"flow needs two batches (B, 3, H, W) of one shape, got {tuple(frames_s.shape)} and "
                f"{tuple(frames_t.shape)}"
            )
        if frames_s.dtype != torch.uint8 or frames_t.dtype != torch.uint8:
            raise ValueError(f"flow needs uint8 frames in 0 … 255, got {frames_s.dtype} and {frames_t.dtype}")
        started = time.perf_counter()
        flow = self.estimate(frames_s, frames_t)
        self.seconds += time.perf_counter() - started
        return flow

    def between(self, frame: Tensor, following: Tensor) -> NeighbourFlow:
        """Both flows between two neighbouring frames (3, H, W) uint8, each (1, 2, H, W)."""
        flows = self(torch.stack((frame, following)), torch.stack((following, frame)))
        return NeighbourFlow(flows[:1], flows[1:])
