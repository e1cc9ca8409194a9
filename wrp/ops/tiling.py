"""Class probabilities of whole images from several views: sliding windows, scales, mirror images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from wrp.errors import WrpError


@dataclass(frozen=True)
class Views:
    """From which views of an image its labels are decided; class probabilities are averaged over them.

    Attributes:
        window: Height and width of a sliding window in pixels; None: the image as a whole.
        overlap: Share of a window that it has in common with the next one, at least.
        scales: Magnifications of the image.
        flip: Whether to look at the mirror image as well.
    """

    window: tuple[int, int] | None = None
    overlap: float = 1 / 3
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be looked at."""
        if not 0 <= self.overlap < 1:
            raise WrpError(f"overlap must be at least 0 and below 1, got {self.overlap}")
        if not self.scales or min(self.scales) <= 0:
            raise WrpError(f"scales must be some positive numbers, got {self.scales}")
        if self.window is not None and min(self.window) < 1:
            raise WrpError(f"window must be a height and width in pixels, got {self.window}")


def view_probabilities(logits_of: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    """Mean class probabilities over all views.

    Args:
        logits_of: Images (B, 3, h, w) to logits (B, C, h, w), for any size.
        images: (B, 3, H, W) floating point.
        views: The views.

    Returns:
        (B, C, H, W) float32.
    """
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in views.scales:
        scaled = [max(1, round(side * scale)) for side in size]
        seen = images if scale == 1 else functional.interpolate(images, scaled, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True)[: 1 + views.flip]:
            probs = _windows(logits_of, seen.flip(-1) if mirrored else seen, views)
            probs = probs.flip(-1) if mirrored else probs
            probs = probs if probs.shape[-2:] == size else functional.interpolate(probs, size, mode="bilinear")
            total = probs if total is None else total + probs
    assert total is not None
    return total / (len(views.scales) * (1 + views.flip))


def _windows(logits_of: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    if views.window is None:
        return logits_of(images).float().softmax(1)
    height, width = (min(side, of) for side, of in zip(views.window, images.shape[-2:], strict=True))
    total: Tensor | None = None
    count = images.new_zeros(1, 1, *images.shape[-2:], dtype=torch.float32)
    for top in _starts(images.shape[-2], height, views.overlap):
        for left in _starts(images.shape[-1], width, views.overlap):
            place = (..., slice(top, top + height), slice(left, left + width))
            probs = logits_of(images[place]).float().softmax(1)
            if total is None:
                total = probs.new_zeros(*probs.shape[:2], *images.shape[-2:])
            total[place] += probs
            count[place] += 1
    assert total is not None
    return total / count


def _starts(side: int, window: int, overlap: float) -> Iterator[int]:
    """Where windows begin that cover a side evenly."""
    step = max(1, int(window * (1 - overlap)))
    count = -(-(side - window) // step)
    for i in range(count + 1):
        yield round(i * (side - window) / max(count, 1))
