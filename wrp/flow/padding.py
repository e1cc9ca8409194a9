"""Frames of any size for networks that take only some."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


class Padding:
    """Repeat the border of frames up to a size that a network takes, and cut its flow back.

    Args:
        size: Height and width of the frames in pixels.
        stride: What the padded height and width are multiples of.
        smallest: Least padded height and width in pixels.
    """

    def __init__(self, size: tuple[int, int], stride: int, smallest: int) -> None:
        self.size = size
        self.amounts = [-(-max(side, smallest) // stride) * stride - side for side in size]

    def pad(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, H, W) with the border repeated below and on the right; same dtype."""
        bottom, right = self.amounts
        if not bottom and not right:
            return frames
        # torch pads by replication in floating point only
        return functional.pad(frames.float(), (0, right, 0, bottom), mode="replicate").to(frames.dtype)

    def unpad(self, flow: Tensor) -> Tensor:
        """The part (B, 2, H, W) of a flow that belongs to the frames."""
        return flow[..., : self.size[0], : self.size[1]]
