"""Frames and flow at another resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Frames that are kept: propagation asks for flow between the keyframe, a frame, and its neighbours, some pairs at a
# time.
KEPT = 8


class Resizer:
    """Frames at a working resolution; on the CPU the last ones are kept, as each is asked for several times.

    On a GPU it is done at once, and to compare frames would make the device wait.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """Frames (B, 3, H, W) uint8 at another height and width."""
        if tuple(frames.shape[-2:]) == size:
            return frames
        if frames.device.type != "cpu":
            return resize_frames(frames, size)
        return torch.stack([self._resized(frame, size) for frame in frames])

    def _resized(self, frame: Tensor, size: tuple[int, int]) -> Tensor:
        # Threads share the list: it is replaced and never changed.
        kept = self._kept
        place = next((i for i, (of, to) in enumerate(kept) if to.shape[1:] == size and torch.equal(of, frame)), None)
        entry = (frame.clone(), resize_frames(frame[None], size)[0]) if place is None else kept[place]
        self._kept = [entry, *(other for other in kept if other is not entry)][:KEPT]
        return entry[1]


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (B, 3, H, W) uint8 at another height and width."""
    mode = "bicubic" if size[0] > frames.shape[-2] else "bilinear"
    resized = functional.interpolate(frames.float(), size, mode=mode, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow (B, 2, H, W) in pixels at another height and width, and in its pixels."""
    height, width = flow.shape[-2:]
    if (height, width) == size:
        return flow
    resized = functional.interpolate(flow, size, mode="bilinear", antialias=True)
    return resized * flow.new_tensor([size[1] / width, size[0] / height]).view(2, 1, 1)
