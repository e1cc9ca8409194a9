"""Reading pixels of frames and labels from files, with Pillow: damaged files are reported, not filled in.

No torch is needed here: to import it takes seconds, and most mistakes in a data set are seen without it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wrp.errors import DataError
from wrp.io.label_map import encode_colors, read_ids, refuse_other_palette, split_alpha
from wrp.io.opening import opened_header, opened_image, upright, upright_size
from wrp.io.video import read_video_frame
from wrp.structures import IGNORE_INDEX, Frame, LabelMap, VideoFrame


def image_array(path: Path | VideoFrame) -> np.ndarray:
    """Read a frame (H, W, 3) uint8 RGB, upright, from a file of its own or from a video.

    Raises:
        DataError: If the file is missing, damaged or too large.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 4)).save(Path(folder, "0.png"))
        ...     image_array(Path(folder, "0.png")).shape
        (4, 6, 3)
    """
    return read_video_frame(path) if isinstance(path, VideoFrame) else decode(path, "RGB")


def read_size(path: Path | VideoFrame) -> tuple[int, int]:
    """Read height and width of a frame in pixels from its header, without decoding it; a frame of a video is decoded.

    Raises:
        DataError: As :func:`image_array`, but for damaged pixels.

    Example:
        >>> import tempfile
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


def label_array(path: Path, label_map: LabelMap, size: tuple[int, int] | None = None) -> np.ndarray:
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

    Example:
        >>> import tempfile
        >>> label_map = LabelMap((7,), ("road",), ((128, 64, 128),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (3, 1), 7).save(Path(folder, "0.png"))
        ...     label_array(Path(folder, "0.png"), label_map).tolist()
        [[0, 0, 0]]
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
    return labels


def frame_label_array(frame: Frame, label_map: LabelMap, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read the label of a frame as class indices, with 255 wherever it is never labelled.

    Args:
        frame: The frame; it has a label.
        label_map: Meaning of the ids.
        size: Height and width of the frame in pixels; None: not checked.

    Returns:
        (H, W) uint8 with 0 … C-1 and 255.

    Raises:
        DataError: As :func:`label_array` and :func:`never_array`.

    Example:
        >>> import tempfile
        >>> label_map = LabelMap((0,), ("road",), ((128, 64, 128),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     label, never = Path(folder, "0.png"), Path(folder, "hood.png")
        ...     Image.new("L", (3, 2), 0).save(label)
        ...     hood = Image.new("L", (3, 2), 0)
        ...     hood.putpixel((0, 1), 255)
        ...     hood.save(never)
        ...     frame_label_array(Frame("0", Path("0.jpg"), label, never=never), label_map).tolist()
        [[0, 0, 0], [255, 0, 0]]
    """
    assert frame.label is not None
    label = label_array(frame.label, map_of(frame, label_map), size)
    if frame.never is not None:
        label[never_array(frame.never, (label.shape[0], label.shape[1]))] = IGNORE_INDEX
    return label


def fitting_label_array(frame: Frame, label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    """Read the label of a frame as :func:`frame_label_array` does, and refuse one of another size.

    Args:
        frame: The frame; it has a label.
        label_map: Meaning of the ids.
        size: What :func:`read_size` tells of the frame: not every header tells the orientation, so the frame is decoded
            before its label is refused.

    Example:
        >>> import tempfile
        >>> label_map = LabelMap((0,), ("road",), ((128, 64, 128),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image, label = Path(folder, "0.jpg"), Path(folder, "0.png")
        ...     for path in (image, label):
        ...         Image.new("L", (3, 1)).save(path)
        ...     fitting_label_array(Frame("0", image, label), label_map, read_size(image)).tolist()
        [[0, 0, 0]]
    """
    label = frame_label_array(frame, label_map)
    if label.shape != size:
        height, width, _ = image_array(frame.image).shape
        frame_label_array(frame, label_map, (height, width))
    return label


def confidence_array(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read confidence (H, W) float32 in [0, 1] from an 8-bit grey PNG.

    Args:
        path: The file.
        size: Height and width of the frame in pixels; None: not checked.

    Raises:
        DataError: If the file is missing, damaged or of another size.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (2, 1), 255).save(Path(folder, "0.png"))
        ...     confidence_array(Path(folder, "0.png")).tolist()
        [[1.0, 1.0]]
    """
    values = decode(path, "L")
    if size is not None and values.shape != size:
        raise DataError(
            f"{path}: the confidence is {values.shape[1]}×{values.shape[0]} pixels, expected {size[1]}×{size[0]}"
        )
    return values.astype(np.float32) / np.float32(255)


def never_array(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read which pixels are never labelled from a picture: all that is neither black nor transparent in it.

    Args:
        path: The picture.
        size: Height and width of the frames in pixels.

    Returns:
        (H, W) bool.

    Raises:
        DataError: If the file is missing, damaged or of another size, or shows no such pixel, or nothing else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     hood = Image.new("L", (3, 1))
        ...     hood.putpixel((0, 0), 255)
        ...     hood.save(Path(folder, "hood.png"))
        ...     never_array(Path(folder, "hood.png"), (1, 3)).tolist()
        [[True, False, False]]
    """
    values = decode(path, "RGBA")
    if values.shape[:2] != size:
        raise DataError(
            f"{path}: the picture of what is never labelled is {values.shape[1]}×{values.shape[0]} pixels, the frames "
            f"are {size[1]}×{size[0]}; it must have the size of the frames"
        )
    never = (values[..., :3] > 0).any(-1) & (values[..., 3] > 0)
    if never.all() or not never.any():
        which = "all of it is painted" if never.any() else "all of it is black"
        raise DataError(f"{path}: {which}; expected black, and white where nothing is ever labelled")
    return np.asarray(never)


def map_of(frame: Frame, label_map: LabelMap) -> LabelMap:
    """Return the label map of a frame's label file; a propagated label was written by this package."""
    return label_map if frame.confidence is None else label_map.written


def decode(path: Path, mode: str) -> np.ndarray:
    """Read the pixels of a file, converted to ``mode``.

    Raises:
        DataError: If the file is missing, damaged or too large.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 4)).save(Path(folder, "0.png"))
        ...     decode(Path(folder, "0.png"), "L").shape
        (4, 6)
    """
    with opened_image(path) as image:
        _refuse_deep(image, path)
        return np.array(upright(image).convert(mode))


def _refuse_deep(image: Image.Image, path: Path) -> None:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise DataError(f"{path}: the image has more than 8 bits per channel (mode {image.mode!r}), expected 8")
