"""Augmentation of frames and clips; only this module imports albumentations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.errors import DataError
from wrp.structures import IGNORE_INDEX

# Else the import of albumentations would query the package index for a newer release.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:  # else labelling would load it, which does not need it
    import albumentations


@dataclass(frozen=True)
class Draw:
    """The random draw of an item: a function of seed, epoch and item, whatever the number of the loader's workers.

    Attributes:
        epoch: Number of items that were drawn before this one, over all epochs.
        index: Number of the item.
        center: Row and column of a pixel that the crop should show near its middle; None: the crop may lie anywhere.

    Example:
        >>> Draw(epoch=0, index=3).seed(7) == Draw(0, 3).seed(7), Draw(1, 3).seed(7) == Draw(0, 3).seed(7)
        (True, False)
    """

    epoch: int
    index: int
    center: tuple[int, int] | None = None

    def seed(self, seed: int) -> int:
        """Return a number in [0, 2³²) that differs between epochs and items."""
        return int(np.random.SeedSequence([seed, self.epoch, self.index]).generate_state(1)[0])


@dataclass(frozen=True)
class Geometry:
    """Position of a crop: the frame is scaled, cropped, padded to the crop's size, and mirrored.

    Attributes:
        size: Height and width of the scaled frame in pixels.
        top: First row of the crop.
        left: First column of the crop.
        crop: Height and width of the crop in pixels.
        mirrored: Whether left and right are exchanged.

    Example:
        >>> values = np.array([[1, 2], [3, 4]], np.uint8)
        >>> Geometry((2, 2), 0, 1, (2, 2), mirrored=False).apply(values, cv2.INTER_NEAREST, fill=255).tolist()
        [[2, 255], [4, 255]]
    """

    size: tuple[int, int]
    top: int
    left: int
    crop: tuple[int, int]
    mirrored: bool

    def apply(self, values: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        """Crop a map.

        Args:
            values: The map, (H, W) or (H, W, channels).
            interpolation: How it is scaled, a flag of OpenCV such as ``cv2.INTER_LINEAR``.
            fill: Value where the crop is larger than the frame.
        """
        resized = cv2.resize(values, self.size[::-1], interpolation=interpolation)
        part = resized[self.top : self.top + self.crop[0], self.left : self.left + self.crop[1]]
        missing = [(0, side - have) for side, have in zip(self.crop, part.shape, strict=False)]
        padded = np.pad(part, [*missing, *[(0, 0)] * (part.ndim - 2)], constant_values=fill)
        return np.ascontiguousarray(padded[:, ::-1] if self.mirrored else padded)


class TrainTransform:
    """Random scale, crop, mirror and colour; all frames of a clip and their maps get the same geometry.

    Args:
        crop_size: Height and width of the result in pixels.
        scale: Range of the random factor by which frames are scaled before the crop.
        seed: Seed of the run.
        color_by_frame: Whether each frame of a clip gets its own change of colours, instead of all the same.
        augmentations: Transforms of albumentations for the crop and its maps, instead of mirror and colour. They keep
            size and type; where they show what lies outside of the frame, there is no label, whatever their
            ``fill_mask``.

    Example:
        >>> image, label = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.zeros(40, 60, dtype=torch.uint8)
        >>> image, maps = TrainTransform(crop_size=(32, 48))(image, [label], Draw(epoch=0, index=0))
        >>> tuple(image.shape), tuple(maps[0].shape)
        ((3, 32, 48), (32, 48))
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 1.5),
        seed: int = 0,
        color_by_frame: bool = False,
        augmentations: Sequence[albumentations.BasicTransform] | None = None,
    ) -> None:
        self.crop_size = crop_size
        self.scale = scale
        self.seed = seed
        self.color_by_frame = color_by_frame
        import albumentations as A

        # The draws of a pipeline come from one seed, set anew for each item.
        jitter = A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8)
        self._colors = A.Compose([jitter], seed=seed)
        self._own = None if augmentations is None else A.Compose(list(augmentations), seed=seed)
        for transform in _every(augmentations or ()):
            if getattr(transform, "fill_mask", None) is not None:
                transform.fill_mask = IGNORE_INDEX

    def __call__(self, image: Tensor, maps: Sequence[Tensor], draw: Draw) -> tuple[Tensor, list[Tensor]]:
        """Augment a frame (3, H, W) uint8, its label and further maps, (H, W) uint8 each; see :meth:`clip`."""
        images, moved, _ = self.clip(image[None], [values[None] for values in maps], draw)
        return images[0], [values[0] for values in moved]

    def clip(
        self, images: Tensor, maps: Sequence[Tensor], draw: Draw, flows: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Augment a clip.

        Args:
            images: (T, 3, H, W) uint8 RGB.
            maps: Maps of some of the frames, (N, H, W) uint8 each: the labels first, which are filled with 255 outside
                of the frame; further ones, such as their confidence, are filled with 0.
            draw: Which random numbers to use.
            flows: (N, 2, H, W) float32 in pixels. Their vectors are scaled and mirrored as well; filled with 0.

        Returns:
            Images, maps and flows of the same shapes and types, but of the crop's height and width.

        Raises:
            DataError: If ``augmentations`` change the size or type of the crop, or flows are to be moved by them.
        """
        seed = draw.seed(self.seed)
        where = self._where((images.shape[2], images.shape[3]), draw, np.random.default_rng(seed))
        if self._own is not None:
            where = replace(where, mirrored=False)
        frames = np.stack([where.apply(frame, cv2.INTER_LINEAR, 0) for frame in images.permute(0, 2, 3, 1).numpy()])
        moved = []
        for number, values in enumerate(maps):
            fill = 0 if number else IGNORE_INDEX
            # Plain INTER_NEAREST counts from the pixels' corners, half a pixel off the frame.
            moved.append(np.stack([where.apply(one, cv2.INTER_NEAREST_EXACT, fill) for one in values.numpy()]))
        if self._own is not None:
            if flows is not None:
                raise DataError("augmentations do not move flow: leave them out, or the flow")
            frames, moved = self._augmented(self._own, frames, moved, seed)
        else:
            frames = self._color(frames, seed)
        colored = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
        return (
            colored,
            [torch.from_numpy(values) for values in moved],
            None if flows is None else self._flows(flows, where),
        )

    def _augmented(
        self, own: Any, frames: np.ndarray, maps: list[np.ndarray], seed: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        own.set_random_seed(seed)
        # All maps are filled alike; those after the labels are turned round, so that they are filled with 0.
        masks = [values if number == 0 else 255 - values for number, values in enumerate(maps)]
        counts = np.cumsum([len(values) for values in masks])[:-1]
        result = own(images=frames, masks=np.concatenate(masks)) if masks else own(images=frames)
        made, moved = result["images"], result.get("masks", np.empty((0, *frames.shape[1:3]), np.uint8))
        for what, now, before in (
            ("image", made, frames),
            ("labels", moved, np.empty((0, *frames.shape[1:3]), np.uint8)),
        ):
            if not isinstance(now, np.ndarray) or now.dtype != np.uint8 or now.shape[1:] != before.shape[1:]:
                got = f"{now.shape[1:]} {now.dtype}" if isinstance(now, np.ndarray) else f"a {type(now).__name__}"
                raise DataError(
                    f"augmentations must keep size and type of a crop, {before.shape[1:]} uint8, got {what} {got}: "
                    "set sampling.crop_size instead, and leave out ToTensorV2 and Normalize"
                )
        parts = np.split(moved, counts) if masks else []
        fitting = [values if number == 0 else 255 - values for number, values in enumerate(parts)]
        return np.ascontiguousarray(made), [np.ascontiguousarray(values) for values in fitting]

    def _where(self, size: tuple[int, int], draw: Draw, rng: np.random.Generator) -> Geometry:
        factor = rng.uniform(*self.scale)
        height, width = (max(1, round(side * factor)) for side in size)
        corner = []
        for axis, side in enumerate((height, width)):
            crop = self.crop_size[axis]
            free = max(0, side - crop)
            if draw.center is None:
                corner.append(int(rng.integers(free + 1)))
            else:
                aim = draw.center[axis] * factor - crop * rng.uniform(0.25, 0.75)
                corner.append(int(np.clip(round(aim), 0, free)))
        return Geometry((height, width), corner[0], corner[1], self.crop_size, bool(rng.random() < 0.5))

    def _color(self, frames: np.ndarray, seed: int) -> np.ndarray:
        if not self.color_by_frame:
            self._colors.set_random_seed(seed)
            result: np.ndarray = self._colors(images=frames)["images"]
            return np.ascontiguousarray(result)
        colored = []
        for number, frame in enumerate(frames):
            self._colors.set_random_seed((seed + number) % 2**32)
            colored.append(self._colors(image=frame)["image"])
        return np.stack(colored)

    def _flows(self, flows: Tensor, where: Geometry) -> Tensor:
        height, width = flows.shape[2:]
        factors = np.array([where.size[1] / width, where.size[0] / height], np.float32)
        factors[0] *= -1 if where.mirrored else 1
        moved = [where.apply(flow, cv2.INTER_LINEAR, 0) * factors for flow in flows.permute(0, 2, 3, 1).numpy()]
        return torch.from_numpy(np.stack(moved)).permute(0, 3, 1, 2).contiguous()


def _every(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield transforms, and those within them."""
    for transform in transforms:
        yield transform
        yield from _every(getattr(transform, "transforms", ()))
