"""Reading frames and labels from files, with Pillow: it reports damaged files where other decoders guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wrp.data.labelmaps import encode_colors
from wrp.data.video import read_video_frame
from wrp.types import DataError, LabelMap, VideoFrame

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm")

# Larger images are refused before they are decoded: a small file can expand to gigabytes.
MAX_PIXELS = 64_000_000


def read_image(path: Path | VideoFrame) -> Tensor:
    """A frame (3, H, W) uint8 RGB, from a file of its own or from a video.

    Raises:
        DataError: If the file is missing, damaged or too large.
    """
    array = read_video_frame(path) if isinstance(path, VideoFrame) else _decode(path, "RGB")
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_label(path: Path, label_map: LabelMap, size: tuple[int, int] | None = None) -> Tensor:
    """The label of a frame as class indices.

    Args:
        path: An 8-bit PNG of ids, grey or indexed, of which an alpha channel is left out; or a PNG of the classes'
            colours, RGB.
        label_map: What the ids mean.
        size: Height and width of the frame.

    Returns:
        (H, W) uint8 with 0 … C-1 and 255.

    Raises:
        DataError: If the file is missing, damaged, of another size, or holds unknown ids or colours.
    """
    values = _decode(path, None)
    colored = values.ndim == 3 and values.shape[2] == 3
    if values.ndim == 3 and not colored:  # grey or index with alpha
        values = np.ascontiguousarray(values[..., 0])
    if size is not None and values.shape[:2] != size:
        raise DataError(
            f"{path}: the label is {values.shape[1]}×{values.shape[0]} pixels, its frame is {size[1]}×{size[0]}; "
            "labels must have the size of their frames"
        )
    return torch.from_numpy(encode_colors(label_map, values, path) if colored else label_map.encode(values, path))


def read_confidence(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Confidence (H, W) float32 in [0, 1] from an 8-bit grey PNG of this size; DataError as :func:`read_label`."""
    values = _decode(path, "L")
    if size is not None and values.shape != size:
        raise DataError(
            f"{path}: the confidence is {values.shape[1]}×{values.shape[0]} pixels, expected {size[1]}×{size[0]}"
        )
    return torch.from_numpy(values).float() / 255


def _decode(path: Path, mode: str | None) -> np.ndarray:
    """Pixels of a file, converted to ``mode``; None: ids as they are stored."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()  # the checksums, which decoding ignores; the file has to be opened anew
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path}: {image.width}×{image.height} pixels are more than the {MAX_PIXELS:,} that are read"
                )
            if mode is None and image.mode not in ("L", "P", "LA", "PA", "RGB"):
                raise DataError(
                    f"{path}: the label has the mode {image.mode!r}, expected 8-bit grey or indexed ids ('L', 'P'), or "
                    "the classes' colours ('RGB')"
                )
            if mode is None and image.mode == "RGB" and image.format == "JPEG":
                raise DataError(f"{path}: the label is a JPEG, which blurs colours; expected a PNG")
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                raise DataError(f"{path}: the image has more than 8 bits per channel (mode {image.mode!r}), expected 8")
            return np.array(image.convert(mode) if mode is not None else image)
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise DataError(f"{path} cannot be read as an image: {error}") from error
