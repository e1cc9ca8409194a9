"""What a format is given to write, and what it gives back when it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from wrp.errors import DataError
from wrp.io.images import IMAGE_SUFFIXES, read_confidence, read_image, read_label
from wrp.structures import IGNORE_INDEX, LabelMap, VideoFrame

SPLIT = "train"
"""The split of everything that is exported: the formats that have splits want one."""


@dataclass(frozen=True)
class RunFrame:
    """A frame that a run has labelled, and where its files are."""

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
        min_confidence: Pixels less confident are exported as unlabelled.
        images: Whether the frames themselves are exported, too.
    """

    label_map: LabelMap
    frames: tuple[RunFrame, ...]
    min_confidence: float = 0.0
    images: bool = True

    def labels(self, frame: RunFrame) -> np.ndarray:
        """Class indices (H, W) uint8 of a frame, 255 where there is none."""
        labels = read_label(frame.label, self.label_map.written).numpy()
        if self.min_confidence > 0:
            confidence = read_confidence(frame.confidence, (labels.shape[0], labels.shape[1])).numpy()
            labels = np.where(confidence < self.min_confidence, np.uint8(IGNORE_INDEX), labels)
        return labels

    def copy_image(self, frame: RunFrame, path: Path) -> None:
        """Copy a frame to ``path``, or encode it anew where that is another kind of file; nothing without images."""
        if not self.images:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(frame.image, Path) and _kind(frame.image) == _kind(path):
            shutil.copyfile(frame.image, path)
        else:
            Image.fromarray(read_image(frame.image).permute(1, 2, 0).numpy()).save(path, quality=95)


def _kind(path: Path) -> str:
    return path.suffix.lower().replace(".jpeg", ".jpg")


@dataclass(frozen=True)
class Returned:
    """A label that comes back.

    Attributes:
        name: Name of its frame, ``<clip>/<stem>``.
        decode: Gives the class indices (H, W) uint8 in the data set's order, 255 where unlabelled, for a frame of the
            size (H, W); DataError if it has another size or holds what is not known. To be called before the next
            label is asked for.
    """

    name: str
    decode: Callable[[tuple[int, int]], np.ndarray]


def frame_name(file_name: str) -> str:
    """The name of a frame from the path of its image in a file; DataError if that leads out of the folder."""
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts or "\\" in file_name:
        raise DataError(f"the image name {file_name!r} leads out of its folder; expected <clip>/<frame>")
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def class_index(label_map: LabelMap, name: str) -> int:
    """The index of a class; DataError if the data set has none of this name."""
    if name not in label_map.names:
        raise DataError(f"there is no class {name!r}; the classes of the data set are {', '.join(label_map.names)}")
    return label_map.names.index(name)


def check_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise DataError if a label has another size (H, W) than its frame."""
    if tuple(found) != size:
        raise DataError(f"the label is {found[1]}×{found[0]} pixels, its frame is {size[1]}×{size[0]}")


def decode_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask (H, W) bool from the lengths of its runs, row by row, the first one of pixels outside of it.

    Raises:
        DataError: If the runs do not fill the mask.
    """
    if runs.ndim != 1 or runs.dtype.kind not in "iu":
        raise DataError(f"runs must be whole numbers one after the other, got {runs.dtype} {runs.shape}")
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise DataError(f"a mask of {width}×{height} pixels has runs of {runs.sum()} pixels altogether")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def encode_runs(mask: np.ndarray) -> np.ndarray:
    """The runs of a mask (H, W) bool as :func:`decode_runs` reads them, int64."""
    pixels = np.concatenate([[False], mask.ravel()])  # the first run is outside, and empty if it has to be
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(np.concatenate([[0], edges, [mask.size]]))


# What content raises that is not what it has to be; xml.etree.ElementTree.ParseError is a SyntaxError.
_DAMAGE = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, SyntaxError, TypeError, ValueError)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say that ``path`` is damaged where its content is not what its format promises."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged, or of another format: {type(error).__name__}: {error}") from error
