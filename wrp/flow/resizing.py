"""Frames and flow at another resolution."""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional

# How many frames are kept: propagation needs flow between the keyframe, a frame and its neighbours, some pairs at a
# time.
KEPT = 8

# Threads that work ahead share what is kept, and two that need a frame at once would both resize it. One lock for all
# resizers, as one of their own could be neither copied nor pickled with the estimator.
_keeping = threading.Lock()


class Resizer:
    """Resize frames to a working resolution; on the CPU the last ones are kept, as each is needed several times.

    On a GPU they are resized at each call, which is fast, while comparing frames would wait for the device.

    Example:
        >>> resize = Resizer()
        >>> resize(torch.zeros(2, 3, 4, 6, dtype=torch.uint8), (8, 12)).shape
        torch.Size([2, 3, 8, 12])
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize frames (B, 3, H, W) uint8 to another height and width."""
        if tuple(frames.shape[-2:]) == size:
            return frames
        if frames.device.type != "cpu":
            return resize_frames(frames, size)
        with _keeping:
            resized = [self._resized(frame, size) for frame in frames]
        return torch.stack(resized)

    def _resized(self, frame: Tensor, size: tuple[int, int]) -> Tensor:
        kept = self._kept
        place = next((i for i, (of, to) in enumerate(kept) if to.shape[1:] == size and torch.equal(of, frame)), None)
        entry = (frame.clone(), resize_frames(frame[None], size)[0]) if place is None else kept[place]
        self._kept = [entry, *(other for other in kept if other is not entry)][:KEPT]
        return entry[1]


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames (B, 3, H, W) uint8 to another height and width: bicubic if that is higher, else bilinear.

    Example:
        >>> frames = resize_frames(torch.full((1, 3, 4, 6), 9, dtype=torch.uint8), (2, 3))
        >>> frames.shape, frames.unique()
        (torch.Size([1, 3, 2, 3]), tensor([9], dtype=torch.uint8))
    """
    mode = "bicubic" if size[0] > frames.shape[-2] else "bilinear"
    resized = functional.interpolate(frames.float(), size, mode=mode, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize flow (B, 2, H, W) floating point, in pixels, to another height and width, in pixels of that size.

    Example:
        >>> resize_flow(torch.ones(1, 2, 2, 2), (2, 4))[0, :, 0, 0]
        tensor([2., 1.])
    """
    height, width = flow.shape[-2:]
    if (height, width) == size:
        return flow
    resized = functional.interpolate(flow, size, mode="bilinear", antialias=True)
    resized[:, 0] *= size[1] / width  # a factor for both would be copied to a GPU, and wait for it
    resized[:, 1] *= size[0] / height
    return resized
