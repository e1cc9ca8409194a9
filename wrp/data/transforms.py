"""Augmentation of single frames; albumentations stays behind this module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.types import IGNORE_INDEX


@dataclass(frozen=True)
class Draw:
    """Which random numbers an item gets: a function of seed, epoch and item, not of the loader's workers.

    Attributes:
        epoch: How many items were drawn before this one, over all epochs.
        index: The item.
    """

    epoch: int
    index: int

    def seed(self, seed: int) -> int:
        """A number in [0, 2³²) that differs between epochs and items."""
        return int(np.random.SeedSequence([seed, self.epoch, self.index]).generate_state(1)[0])


class TrainTransform:
    """Random scale, crop, mirror and colour, the same for a frame and its label.

    Args:
        crop_size: Height and width of the result in pixels.
        scale: Range of the random magnification before the crop.
        seed: Seed of the run.
    """

    def __init__(self, crop_size: tuple[int, int], scale: tuple[float, float] = (0.5, 1.5), seed: int = 0) -> None:
        self.seed = seed
        height, width = crop_size
        # The draws of a pipeline come from one seed, set anew for each item in __call__.
        self._pipeline = A.Compose(
            [
                A.RandomScale((scale[0] - 1, scale[1] - 1), p=1.0),
                A.PadIfNeeded(height, width, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE_INDEX),
                A.RandomCrop(height, width),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8),
            ],
            seed=seed,
        )

    def __call__(self, image: Tensor, maps: Sequence[Tensor], draw: Draw) -> tuple[Tensor, list[Tensor]]:
        """Augment a frame (3, H, W) uint8 and what belongs to its pixels, such as its label: (H, W) uint8 each."""
        self._pipeline.set_random_seed(draw.seed(self.seed))
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        result = self._pipeline(image=pixels, masks=[values.numpy() for values in maps])
        moved = [torch.from_numpy(np.ascontiguousarray(values)) for values in result["masks"]]
        return torch.from_numpy(result["image"]).permute(2, 0, 1).contiguous(), moved
