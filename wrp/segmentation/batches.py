"""Batches of other data modules: what torchgeo, torchvision and albumentations serve, as this package's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wrp.errors import WrpError
from wrp.geometry.consistency import check_unit
from wrp.io.together import processes
from wrp.structures import IGNORE_INDEX, FrameBatch

# Images per batch, at most, for which the numbers of all images differ.
LARGEST = 1000

# Batches on a GPU between those whose values are checked.
LOOK_EVERY = 50


def as_frames(batch: Any, num_classes: int, number: int = 0) -> FrameBatch:
    """Return a batch of single frames, of this package or of another one, as a :class:`~wrp.structures.FrameBatch`.

    On a GPU, the values of every fiftieth batch alone are checked, as each check waits for it.

    Args:
        batch: A FrameBatch, or a dictionary with ``image``, (B, 3, H, W) uint8 or floating point in [0, 1], and
            ``mask``, class indices and 255 where there is none, (B, H, W) or (B, 1, H, W), any integer type; no masks
            are needed to predict. Names of the images may be given as ``stem``, B texts; without, they are numbers.
            Those of their clips may be given as ``clip``, B texts; without, all are ``images``.
        num_classes: Number of classes C.
        number: Number of the batch in this process, by which images without names get different ones.

    Raises:
        WrpError: If the batch is of another kind, or a shape, type or value is none of these.

    Example:
        >>> masks = torch.tensor([[[[0, 1], [2, 255]]]])
        >>> frames = as_frames({"image": torch.rand(1, 3, 2, 2), "mask": masks}, num_classes=3)
        >>> frames.labels, frames.stems
        (tensor([[[  0,   1],
                 [  2, 255]]], dtype=torch.uint8), ['000000'])
    """
    looks = number % LOOK_EVERY == 0
    if isinstance(batch, Mapping) and "image" in batch:
        images = _images(batch["image"], looks)
        size = (len(images), *images.shape[-2:])
        masks = batch.get("mask")
        if masks is None:
            labels = torch.full(size, IGNORE_INDEX, dtype=torch.uint8, device=images.device)
        else:
            labels = _labels(masks, size, num_classes, looks)
        count, rank = processes()
        indices = [(number * count + rank) * LARGEST + i for i in range(len(images))]
        stems = list(map(str, batch.get("stem", [f"{index:06d}" for index in indices])))
        clips = list(map(str, batch.get("clip", ["images"] * len(images))))
        return FrameBatch(images, labels, clips, stems, indices)
    if isinstance(batch, Mapping):
        raise WrpError(
            "SegmentationModule learns from all labels alike, got batches that keep two kinds apart: set "
            "data.init_args.propagated.apart=false, or use a module of wrp.selftraining"
            if set(batch) == {"labelled", "unlabelled"}
            else f"SegmentationModule learns from batches with image and mask, got a dictionary of {_names(batch)}"
        )
    if not isinstance(batch, FrameBatch):
        raise WrpError(
            f"SegmentationModule learns from single frames, got a {type(batch).__name__}: use --data SegmentationData, "
            'or serve {"image": (B, 3, H, W), "mask": (B, H, W)}'
        )
    _images(batch.images, looks)
    return batch


def _names(batch: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, batch)) or "nothing"


def _images(images: Any, looks: bool) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        raise WrpError(f"images must be a tensor (B, 3, H, W), got {_what(images)}")
    check_unit(images, waits=looks)
    return images


def _labels(masks: Any, size: tuple[int, ...], num_classes: int, looks: bool) -> Tensor:
    shapes = size, (size[0], 1, *size[1:])
    if not isinstance(masks, Tensor) or masks.shape not in shapes or masks.is_floating_point() or masks.is_complex():
        raise WrpError(f"masks must be a tensor of integers {shapes[0]} or {shapes[1]}, got {_what(masks)}")
    labels = masks.view(size)
    if labels.device.type == "cpu" or looks:
        wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_classes))]
        if len(wrong):
            raise WrpError(
                f"masks must hold the classes 0 … {num_classes - 1}, and {IGNORE_INDEX} where there is none, got "
                f"{int(wrong[0])}"
            )
    return labels.to(torch.uint8)


def _what(value: Any) -> str:
    kind = type(value).__name__
    return f"{tuple(value.shape)} {value.dtype}".replace("torch.", "") if isinstance(value, Tensor) else f"a {kind}"
