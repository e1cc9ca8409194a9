"""What a format's ``write`` is given, and what its ``read`` yields."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wrp.errors import DataError, check_choice
from wrp.io.label_map import class_of_number
from wrp.io.listing import list_folders, visible
from wrp.io.opening import ORIENTATION, opened_image
from wrp.io.pixels import confidence_array, image_array, label_array
from wrp.io.progress import progress
from wrp.io.resuming import resumed_items
from wrp.io.writing import replacing
from wrp.structures import IGNORE_INDEX, LabelMap, VideoFrame

SPLIT = "train"
"""The split of everything that is exported: formats that have splits require one."""


@dataclass(frozen=True)
class RunFrame:
    """A frame that a run has labelled, with the paths of its files.

    Example:
        >>> frame = RunFrame("a", "0", Path("a/0.JPG"), Path("labels/a/0.png"), Path("confidence/a/0.png"))
        >>> frame.name, frame.file_name
        ('a/0', 'a/0.JPG')
    """

    clip: str
    stem: str
    image: Path | VideoFrame
    label: Path
    confidence: Path

    @property
    def name(self) -> str:
        """Its name in all formats, without a suffix."""
        return f"{self.clip}/{self.stem}"

    @property
    def file_name(self) -> str:
        """Its name with the suffix of its image; the frames of videos become PNGs."""
        own = self.image.suffix if isinstance(self.image, Path) else ""
        return self.name + (own if own.lower() in (".png", ".jpg", ".jpeg") else ".png")


@dataclass(frozen=True)
class Export:
    """What is to be exported.

    Attributes:
        label_map: The classes of the run's data.
        frames: The frames in the order of clips and time.
        min_confidence: Pixels below this confidence, in [0, 1], are exported as unlabelled.
        images: Whether the frames themselves are exported, too.

    Example:
        >>> export = Export(LabelMap((0,), ("road",), ((128, 64, 128),)), frames=(), min_confidence=0.5)
        >>> export.label_map.names, export.images
        (('road',), True)
    """

    label_map: LabelMap
    frames: tuple[RunFrame, ...]
    min_confidence: float = 0.0
    images: bool = True

    def labels(self, frame: RunFrame) -> np.ndarray:
        """Return the class indices (H, W) uint8 of a frame, 255 where unlabelled."""
        labels = label_array(frame.label, self.label_map.written)
        if self.min_confidence > 0:
            confidence = confidence_array(frame.confidence, (labels.shape[0], labels.shape[1]))
            labels = np.where(confidence < self.min_confidence, np.uint8(IGNORE_INDEX), labels)
        return labels

    def each(self, out: Path, make: Callable[[RunFrame], Any]) -> Iterator[tuple[RunFrame, Any]]:
        """Yield the frames with what is made of each, behind a bar; go on where an export was stopped.

        Args:
            out: The folder of the export.
            make: Writes the files of a frame, and returns what the files of all frames hold of it, as JSON can hold it.
        """
        made = resumed_items(out, self.frames, make)
        yield from progress(made, desc="Exporting", unit="frame", total=len(self.frames))

    def copy_image(self, frame: RunFrame, path: Path) -> None:
        """Copy a frame to ``path``; do nothing without ``images``, or where an export that was stopped has done so.

        It is encoded anew if ``path`` is of another kind, or its file asks to be turned: not all programs do so.
        """
        if not self.images or path.is_file():
            return
        with replacing(path, many=True) as temporary:
            if isinstance(frame.image, Path) and _can_stay(frame, _kind(path)):
                shutil.copyfile(frame.image, temporary)
            else:
                temporary.write_bytes(_encode(frame, _kind(path)))

    def encoded_image(self, frame: RunFrame) -> bytes | None:
        """Return the file of a frame, of the kind of its ``file_name``; None without ``images``."""
        if not self.images:
            return None
        kind = _kind(Path(frame.file_name))
        if isinstance(frame.image, Path) and _can_stay(frame, kind):
            return frame.image.read_bytes()
        return _encode(frame, kind)


def _can_stay(frame: RunFrame, kind: str) -> bool:
    """Tell whether the file of a frame can be taken as it is."""
    return isinstance(frame.image, Path) and _kind(frame.image) == kind and _is_upright(frame.image)


def _encode(frame: RunFrame, kind: str) -> bytes:
    encoded = io.BytesIO()
    picture = Image.fromarray(image_array(frame.image))
    picture.save(encoded, "JPEG" if kind == ".jpg" else "PNG", quality=95)
    return encoded.getvalue()


def _kind(path: Path) -> str:
    return path.suffix.lower().replace(".jpeg", ".jpg")


def _is_upright(path: Path) -> bool:
    """Tell whether an image is to be seen as it is stored; 2 … 8 are the EXIF orientations that turn or mirror it."""
    with opened_image(path) as image:
        return image.getexif().get(ORIENTATION, 1) not in range(2, 9)


@dataclass(frozen=True)
class Returned:
    """A label that is read back.

    Attributes:
        name: Name of its frame as it is written there, with slashes and without the suffix of an image; see
            :class:`~wrp.exchange.names.WrittenNames`.
        decode: Returns, for a frame of size (H, W), the class indices (H, W) uint8 in the data set's order, 255 where
            unlabelled; raises DataError if the label has another size or unknown content. Call it before the next label
            is read.

    Example:
        >>> label = Returned("a/0", decode=lambda size: np.zeros(size, np.uint8))
        >>> label.decode((4, 6)).shape
        (4, 6)
    """

    name: str
    decode: Callable[[tuple[int, int]], np.ndarray]


def class_index(label_map: LabelMap, name: str) -> int:
    """Return the index of a class; raise DataError if the data set has none of this name.

    What was exported before the classes had names, such as ``class 1``, is known by the id.

    Example:
        >>> class_index(LabelMap((0, 1), ("road", "car"), ((128, 64, 128), (0, 0, 142))), "car")
        1
    """
    numbered = class_of_number(label_map, name)
    if name not in label_map.names and numbered is not None:
        return numbered
    check_choice("class", name, label_map.names, ", the classes of the data set", DataError)
    return label_map.names.index(name)


def check_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise DataError if a label has another size (H, W) than its frame.

    Example:
        >>> check_size((4, 6), (4, 6))
        >>> check_size((4, 6), (6, 4))
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: the label is 6×4 pixels, its frame is 4×6
    """
    if tuple(found) != size:
        raise DataError(f"the label is {found[1]}×{found[0]} pixels, its frame is {size[1]}×{size[0]}")


def decode_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Decode a mask (H, W) bool from the lengths of its runs, row by row; the first run lies outside of the mask.

    Args:
        runs: Lengths in pixels, a one-dimensional array of integers.
        height: H in pixels.
        width: W in pixels.

    Raises:
        DataError: If the runs do not fill the mask.

    Example:
        >>> decode_runs(np.array([1, 2, 1]), height=2, width=2).tolist()
        [[False, True], [True, False]]
    """
    if runs.ndim != 1 or runs.dtype.kind not in "iu":
        raise DataError(f"runs must be whole numbers one after the other, got {runs.dtype} {runs.shape}")
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise DataError(f"a mask of {width}×{height} pixels has runs of {runs.sum()} pixels altogether")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def encode_runs(mask: np.ndarray) -> np.ndarray:
    """Encode a mask (H, W) bool as runs, int64, which :func:`decode_runs` reads.

    Example:
        >>> encode_runs(np.array([[True, True], [True, False]])).tolist()
        [0, 3, 1]
    """
    pixels = np.concatenate([[False], mask.ravel()])  # the first run is outside, and may be empty
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(np.concatenate([[0], edges, [mask.size]]))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, width and height in pixels of what a mask (H, W) bool, which is not empty, covers.

    Example:
        >>> bounding_box(np.array([[False, False, True], [False, False, True]]))
        (2, 0, 1, 2)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def top_folder(path: Path, holds: Sequence[str]) -> Path:
    """Return the folder that holds what a format consists of: ``path``, or the only folder in it, and so on.

    Args:
        path: Folder or file that the user names; a file is returned as it is.
        holds: Patterns of what lies in the folder of a format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "my task", "SegmentationClass").mkdir(parents=True)
        ...     top_folder(Path(folder), ["SegmentationClass"]).name
        'my task'
    """
    place = path
    for _ in range(8):  # a link may lead round in a circle
        if not place.is_dir():
            break
        if any(any(place.glob(pattern)) for pattern in holds):
            return place
        folders = list_folders(place)
        if len(folders) != 1:
            break
        place = folders[0]
    return path


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files below a folder that have a suffix, in any case, without hidden files and folders.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "a").mkdir()
        ...     Path(folder, "a", "0.PNG").touch()
        ...     [path.name for path in files_below(Path(folder), ".png")]
        ['0.PNG']
    """
    for path in visible(folder):
        if path.is_dir():
            yield from files_below(path, suffix)
        elif path.suffix.lower() == suffix:
            yield path


# Errors of reading malformed content; xml.etree.ElementTree.ParseError is a SyntaxError.
_DAMAGE = (AttributeError, LookupError, OverflowError, RecursionError, SyntaxError, TypeError, ValueError)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise DataError if the block fails because the content of ``path`` does not follow its format.

    Example:
        >>> with reading(Path("labels.json")):
        ...     {}["categories"]
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: labels.json is damaged, or of another format: KeyError: 'categories'
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged, or of another format: {type(error).__name__}: {error}") from error
