"""Frames and labels of files as tensors, see :mod:`wrp.io.pixels`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wrp.io.listing import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from wrp.io.pixels import confidence_array, frame_label_array, image_array, label_array, never_array
from wrp.structures import Frame, LabelMap, VideoFrame


def read_image(path: Path | VideoFrame) -> Tensor:
    """Read a frame (3, H, W) uint8 RGB, upright, from a file of its own or from a video.

    Raises:
        DataError: If the file is missing, damaged or too large.
    """
    return torch.from_numpy(image_array(path)).permute(2, 0, 1).contiguous()


def read_label(path: Path, label_map: LabelMap, size: tuple[int, int] | None = None) -> Tensor:
    """Read the label of a frame as class indices, (H, W) uint8 with 0 … C-1 and 255.

    The arguments and errors are those of :func:`~wrp.io.pixels.label_array`.
    """
    return torch.from_numpy(label_array(path, label_map, size))


def read_frame_label(frame: Frame, label_map: LabelMap, size: tuple[int, int] | None = None) -> Tensor:
    """Read the label of a frame as class indices, (H, W) uint8, with 255 wherever it is never labelled.

    The arguments and errors are those of :func:`~wrp.io.pixels.frame_label_array`.
    """
    return torch.from_numpy(frame_label_array(frame, label_map, size))


def read_never(path: Path, size: tuple[int, int]) -> Tensor:
    """Read which pixels are never labelled from a picture, (H, W) bool, see :func:`~wrp.io.pixels.never_array`."""
    return torch.from_numpy(never_array(path, size))


def read_confidence(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read confidence (H, W) float32 in [0, 1] from an 8-bit grey PNG, see :func:`~wrp.io.pixels.confidence_array`."""
    return torch.from_numpy(confidence_array(path, size))
