"""Padding of frames for networks that take only some sizes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


class Padding:
    """Repeat the border of frames up to a size that a network takes, and crop its flow.

    Args:
        size: Height and width of the frames in pixels.
        stride: The padded height and width are multiples of it.
        smallest: Least padded height and width in pixels.

    Example:
        >>> import torch
        >>> padding = Padding((5, 20), stride=8, smallest=16)
        >>> padded = padding.pad(torch.zeros(1, 3, 5, 20, dtype=torch.uint8))
        >>> padded.shape, padding.unpad(padded).shape
        (torch.Size([1, 3, 16, 24]), torch.Size([1, 3, 5, 20]))
    """

    def __init__(self, size: tuple[int, int], stride: int, smallest: int) -> None:
        self.size = size
        self.amounts = [-(-max(side, smallest) // stride) * stride - side for side in size]

    def pad(self, frames: Tensor) -> Tensor:
        """Repeat the border of frames (B, C, H, W) below and on the right; same dtype."""
        bottom, right = self.amounts
        if not bottom and not right:
            return frames
        # torch pads by replication in floating point only
        return functional.pad(frames.float(), (0, right, 0, bottom), mode="replicate").to(frames.dtype)

    def unpad(self, flow: Tensor) -> Tensor:
        """Crop the flow (B, 2, H', W') of padded frames to the size of the frames."""
        return flow[..., : self.size[0], : self.size[1]]
