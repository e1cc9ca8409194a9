"""A small network, a small batch, and the command of a small run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wrp.options import NetworkArgs
from wrp.structures import FrameBatch

NETWORK = NetworkArgs(encoder_name="tu-regnetx_002")
SMALL: dict[str, Any] = {"num_classes": 3, "network": NETWORK}


def batch(count: int = 2, labelled: bool = True, seed: int = 0) -> FrameBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (count, 4, 4), dtype=torch.uint8, generator=generator)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    names = [str(i) for i in range(count)]
    full = torch.ones(count, 64, 64)
    if labelled:
        return FrameBatch(images, labels, names, names, list(range(count)))
    return FrameBatch(images, torch.full_like(labels, 255), names, names, list(range(count)), full, count)


def command(system: str, lists: dict[str, str], out: Path, *more: str) -> list[str]:
    chosen = [f"--{which}={lists[which]}" for which in ("labelled", "unlabelled", "val")]
    sized = ["--encoder=tu-test_resnet", "--steps=3", "--crop-size", "32", "32", "--batch-size=2"]
    return ["selftrain", system, lists["root"], *chosen, f"--out={out}", *sized, *more]
