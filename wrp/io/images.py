"""Reading frames and labels from files, with Pillow: it reports damaged files where other decoders fill in pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wrp.errors import DataError
from wrp.io.label_map import encode_colors, read_ids, refuse_other_palette, split_alpha
from wrp.io.listing import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from wrp.io.opening import opened_header, opened_image, upright, upright_size
from wrp.io.video import read_video_frame
from wrp.structures import IGNORE_INDEX, Frame, LabelMap, VideoFrame


def read_image(path: Path | VideoFrame) -> Tensor:
    """Read a frame (3, H, W) uint8 RGB, upright, from a file of its own or from a video.

    Raises:
        DataError: If the file is missing, damaged or too large.
    """
    array = read_video_frame(path) if isinstance(path, VideoFrame) else _decode(path, "RGB")
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_size(path: Path | VideoFrame) -> tuple[int, int]:
    """Read height and width of a frame in pixels from its header, without decoding it; a frame of a video is decoded.

    Raises:
        DataError: As :func:`read_image`, but for damaged pixels.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 4)).save(Path(folder, "0.png"))
        ...     read_size(Path(folder, "0.png"))
        (4, 6)
    """
    if isinstance(path, VideoFrame):
        height, width, _ = read_video_frame(path).shape
        return height, width
    with opened_header(path) as image:
        _refuse_deep(image, path)
        return upright_size(image)


def read_label(path: Path, label_map: LabelMap, size: tuple[int, int] | None = None) -> Tensor:
    """Read the label of a frame as class indices.

    Args:
        path: An 8-bit PNG, TIFF or BMP of ids, grey or indexed, or of the classes' colours, RGB. Where its alpha
            channel is 0, a pixel is unlabelled.
        label_map: Meaning of the ids.
        size: Height and width of the frame in pixels; None: not checked.

    Returns:
        (H, W) uint8 with 0 … C-1 and 255.

    Raises:
        DataError: If the file is missing, damaged, of another size, or holds unknown ids or colours.
    """
    values, palette = read_ids(path)
    if size is not None and values.shape[:2] != size:
        raise DataError(
            f"{path}: the label is {values.shape[1]}×{values.shape[0]} pixels, its frame is {size[1]}×{size[0]}; "
            "labels must have the size of their frames"
        )
    values, unlabelled = split_alpha(values, path)
    if palette is not None:
        refuse_other_palette(label_map, values, palette, path)
    if unlabelled is not None:  # whatever they hold means nothing
        values[unlabelled] = label_map.colors[0] if values.ndim == 3 else label_map.ids[0]
    labels = encode_colors(label_map, values, path) if values.ndim == 3 else label_map.encode(values, path)
    if unlabelled is not None:
        labels[unlabelled] = IGNORE_INDEX
    return torch.from_numpy(labels)


def map_of(frame: Frame, label_map: LabelMap) -> LabelMap:
    """Return the label map of a frame's label file; a propagated label was written by this package."""
    return label_map if frame.confidence is None else label_map.written


def read_confidence(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read confidence (H, W) float32 in [0, 1] from an 8-bit grey PNG; raise DataError as :func:`read_label`."""
    values = _decode(path, "L")
    if size is not None and values.shape != size:
        raise DataError(
            f"{path}: the confidence is {values.shape[1]}×{values.shape[0]} pixels, expected {size[1]}×{size[0]}"
        )
    return torch.from_numpy(values).float() / 255


def _decode(path: Path, mode: str) -> np.ndarray:
    """Read the pixels of a file, converted to ``mode``."""
    with opened_image(path) as image:
        _refuse_deep(image, path)
        return np.array(upright(image).convert(mode))


def _refuse_deep(image: Image.Image, path: Path) -> None:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise DataError(f"{path}: the image has more than 8 bits per channel (mode {image.mode!r}), expected 8")
