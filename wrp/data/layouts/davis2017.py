"""DAVIS 2017 at 480p: as DAVIS 2016, but every object is a class: ``ImageSets/2017/<split>.txt`` names the sequences.

Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", arXiv 1704.00675; from
https://davischallenge.org. Objects are numbered anew in each sequence, so object 1 of one is not object 1 of another:
train networks on one sequence at a time, or propagate by motion alone. The objects of all masks count, also those that
come into view later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.data.layouts.davis import RESOLUTION, listed_sequences
from wrp.errors import DataError
from wrp.io.label_map import read_ids, split_alpha
from wrp.io.listing import list_folders
from wrp.structures import IGNORE_INDEX, Clip, Frame, LabelMap


def _color(number: int) -> tuple[int, int, int]:
    """Return a colour of the data set's own palette, Pascal VOC's: the bits of the number, three at a time."""
    red, green, blue = (
        sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
    )
    return red, green, blue


COLORS = tuple(_color(number) for number in range(255))

# More objects than anybody outlines in a video: greys of smoothed edges.
MOST_OBJECTS = 64


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "JPEGImages" / RESOLUTION).is_dir() and (root / "ImageSets" / "2017").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the sequences of a split, or all there are; every mask is read once, for its objects.

    Raises:
        DataError: If a folder or the split's list is missing, or a mask is damaged or shows no numbered objects.
    """
    folder = root / "JPEGImages" / RESOLUTION
    names = [sequence.name for sequence in list_folders(folder)]
    if split is not None:
        listed = listed_sequences(root / "ImageSets" / "2017" / f"{split}.txt")
        names = [name for name in names if name in listed]
    clips = []
    for name in names:
        labels = root / "Annotations" / RESOLUTION / name
        clips.append(make_clip(name, (Frame(i.stem, i, label_beside(labels, i)) for i in list_images(folder / name))))
    if not clips:
        raise DataError(f"{folder} holds no sequences" + (f" of split {split!r}" if split else ""))
    return ClipIndex(root, "davis2017", object_map(objects_of(clips), palette_of(clips)), tuple(clips))


def objects_of(clips: Sequence[Clip]) -> set[int]:
    """Return the ids of the objects in all masks of some clips.

    Raises:
        DataError: If a mask cannot be read, or those of a clip show an object as 255, as in DAVIS 2016.
    """
    found: set[int] = set()
    masks = [[frame.label for frame in clip.frames if frame.label is not None] for clip in clips]
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
        for clip, labels in zip(clips, masks, strict=True):
            mine: set[int] = set().union(*pool.map(ids_of, labels))
            if mine and not mine - {0, IGNORE_INDEX} and IGNORE_INDEX in mine:
                raise DataError(
                    f"the masks of {clip.name}, such as {labels[0]}, hold 255, unlabelled, but no object; number the "
                    "objects from 1 or, if 255 is the object as in DAVIS 2016, choose the layout davis"
                )
            found |= mine
    return found - {IGNORE_INDEX}


def ids_of(mask: Path) -> set[int]:
    """Return the values of a mask, or of a mask in colours the numbers of these in the data set's palette.

    Raises:
        DataError: If it cannot be read, or has other colours.
    """
    values, transparent = split_alpha(read_ids(mask)[0], mask)
    flat = values.ravel() if values.ndim == 2 else values.reshape(-1, 3)
    if transparent is not None:
        flat = flat[~transparent.ravel()]
    if flat.ndim == 1:
        return set(np.bincount(flat, minlength=256).nonzero()[0].tolist())
    numbers = {color: number for number, color in enumerate(COLORS)}
    colors = [tuple(color) for color in np.unique(flat, axis=0).tolist()]
    if unknown := [color for color in colors if color not in numbers]:
        raise DataError(
            f"{mask} has the colour {unknown[0]}, which is no object's in the palette of DAVIS; write the numbers of "
            "the objects instead, as a grey or indexed PNG"
        )
    return {numbers[color] for color in colors}


def palette_of(clips: Sequence[Clip]) -> list[int]:
    """Return the palette of the first mask, three numbers for each colour; an empty one if there is none."""
    first = next((frame.label for clip in clips for frame in clip.frames if frame.label is not None), None)
    return (read_ids(first)[1] or []) if first is not None else []


def object_map(ids: Collection[int], palette: Sequence[int] = ()) -> LabelMap:
    """Make a class of the background, 0, and of each object.

    Args:
        ids: Numbers of the objects, 0 … 254.
        palette: Colours of the numbers, three numbers for each; DAVIS's own are taken if it lacks one or repeats one,
            or has greys alone.

    Raises:
        DataError: If there are so many that the masks cannot show objects.

    Example:
        >>> object_map({1, 3}).names, object_map({1, 3}).colors[1]
        (('background', 'object 1', 'object 3'), (128, 0, 0))
    """
    ordered = sorted({0, *ids})
    if len(ordered) > MOST_OBJECTS:
        raise DataError(
            f"the masks hold {len(ordered)} values, so many objects cannot be; are they grey from 0 to 255, as in "
            "DAVIS 2016, or smoothed at the edges?"
        )
    chosen = [(*palette[3 * id_ : 3 * id_ + 3],) for id_ in ordered]
    colorful = any(len(set(color)) > 1 for color in chosen)
    if len(set(chosen)) < len(ordered) or any(len(color) < 3 for color in chosen) or not colorful:
        chosen = [COLORS[id_] for id_ in ordered]
    names = ("background", *(f"object {id_}" for id_ in ordered[1:]))
    return LabelMap(tuple(ordered), names, tuple((red, green, blue) for red, green, blue in chosen))
