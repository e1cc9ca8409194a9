"""A tiny network, a batch, and flags of a quiet Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wrp.structures import FrameBatch

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


def frames(count: int = 2, weights: Tensor | None = None) -> FrameBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (count, 32, 32), dtype=torch.uint8, generator=generator)
    return FrameBatch(images, labels, [""] * count, ["a"] * count, list(range(count)), weights)


class Linear(nn.Module):
    """A network with an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))
