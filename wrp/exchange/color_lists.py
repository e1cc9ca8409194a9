"""Labels as indexed PNGs whose colours are explained by a list, as in VOC and CamVid.

The values are the ids of the data set, 255 is unlabelled; the palette shows the colours of the list. The class with the
id N stands in line N of the list, counted from 0, as trainers take the number of the line for the value. Labels are
read by their colours, as programs that write such files number the classes in their own ways, or write RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from wrp.errors import DataError, WrpError
from wrp.exchange.base import Returned, check_size, class_index, files_below, reading
from wrp.exchange.names import frame_name
from wrp.io.label_map import split_alpha
from wrp.io.listing import visible
from wrp.io.opening import opened_image, read_text, upright
from wrp.io.writing import write_image, write_text
from wrp.structures import IGNORE_INDEX, LabelMap

Color = tuple[int, int, int]
"""Red, green and blue, 0 … 255."""

Entry = tuple[str, Color]
"""Name and colour of a class."""

# Names for pixels without a class in lists, unless the data set has a class of this name.
UNLABELLED = ("background", "unlabelled", "void")
# Further ones that other programs have, in any case.
MEAN_UNLABELLED = frozenset((*UNLABELLED, "unlabeled", "ignore", "ignored", "border"))

BORDER = (224, 224, 192)
"""VOC draws it around objects, and for pixels that are not labelled; its list of classes does not have it."""

# Black, unless a class is black; then VOC's colour for pixels without a class.
UNLABELLED_COLORS = ((0, 0, 0), BORDER, *((grey, grey, grey) for grey in range(255, 0, -1)))


# Name of an id without a class, below the largest one.
FILLER = "unused-{}"


def color_entries(label_map: LabelMap) -> tuple[list[Entry], Color]:
    """Return the entries of a list, each class at the place of its id, and the colour of unlabelled pixels.

    The entry for unlabelled pixels is at 0 if no class has this id, else behind all classes. Other places without a
    class have entries of their own, whose colours no label has.

    Raises:
        WrpError: If two classes have one colour, or every name for unlabelled pixels is that of a class.
    """
    if len(set(label_map.colors)) < label_map.num_classes:
        color = next(color for color in label_map.colors if label_map.colors.count(color) > 1)
        names = [name for name, of_it in zip(label_map.names, label_map.colors, strict=True) if of_it == color]
        raise WrpError(
            f"the classes {', '.join(names)} share the colour {color}, by which this format tells them apart"
        )
    names = [name for name in UNLABELLED if name not in label_map.names]
    if not names:
        raise WrpError(f"this format needs one of the names {', '.join(UNLABELLED)} for pixels without a class")
    unlabelled = next(color for color in UNLABELLED_COLORS if color not in label_map.colors)
    last = max(label_map.ids)
    placed = dict(zip(label_map.ids, zip(label_map.names, label_map.colors, strict=True), strict=True))
    placed.setdefault(0 if 0 not in placed else last + 1, (names[0], unlabelled))
    taken = {unlabelled, BORDER, *label_map.colors}
    colors = product(range(255, -1, -1), repeat=3)
    unused = ((red, green, blue) for red, green, blue in colors if (red, green, blue) not in taken)
    for id_ in range(last):
        if id_ not in placed:
            placed[id_] = (_unused_name(id_, label_map), next(unused))
    return [placed[id_] for id_ in sorted(placed)], unlabelled


def _unused_name(id_: int, label_map: LabelMap) -> str:
    name = FILLER.format(id_)
    while name in label_map.names:
        name += "-"
    return name


def write_entries(path: Path, entries: list[Entry], line: str, parse: Callable[[str], Entry | None]) -> None:
    """Write a list of classes.

    Args:
        path: The file.
        entries: The classes.
        line: Format of a line, with the fields ``name``, ``red``, ``green`` and ``blue``.
        parse: Reads a line back.

    Raises:
        WrpError: If a name would not be read back.
    """
    lines = [line.format(name=name, red=color[0], green=color[1], blue=color[2]) for name, color in entries]
    for entry, text in zip(entries, lines, strict=True):
        if len(text.splitlines()) != 1 or parse(text) != entry:
            raise WrpError(f"the class name {entry[0]!r} cannot be written into {path.name}; rename it, or use coco")
    write_text(path, "".join(f"{text}\n" for text in lines))


@dataclass(frozen=True)
class Listing:
    """A list of classes as a file has it.

    Attributes:
        name: Name of the file, for messages.
        entries: Name and colour of each class.
        unlabelled: Colours that mean no class, unless the list has them; black always does.

    Example:
        >>> listing = Listing("labelmap.txt", [("road", (128, 64, 128)), ("background", (0, 0, 0))])
        >>> listing.meanings()[128, 64, 128], listing.meanings()[0, 0, 0]
        ('road', None)
    """

    name: str
    entries: Sequence[Entry]
    unlabelled: tuple[Color, ...] = ()

    def meanings(self, classes: Collection[str] = ()) -> dict[Color, str | None]:
        """Return the class of each colour, None for unlabelled; raise DataError if a colour has two.

        Args:
            classes: The classes of the data set: among them, "background" is a class like any other.
        """
        found: dict[Color, str | None] = {}
        for name, color in self.entries:
            meaning = name if name in classes or name.casefold() not in MEAN_UNLABELLED else None
            if found.setdefault(color, meaning) != meaning:
                raise DataError(
                    f"{self.name} gives the colour {color} to {found[color] or 'unlabelled pixels'} and to {name}"
                )
        return dict.fromkeys((*UNLABELLED_COLORS[:1], *self.unlabelled)) | found


def read_entries(path: Path, parse: Callable[[str], Entry | None]) -> list[Entry]:
    """Read a list of classes; raise DataError if there is none, or it is damaged."""
    text = read_text(path)
    with reading(path):
        entries = [parse(line) for line in text.splitlines() if line.strip()]
    found = [entry for entry in entries if entry is not None]
    if not found:
        raise DataError(f"{path} lists no classes")
    return found


def write_color_label(path: Path, labels: np.ndarray, label_map: LabelMap, unlabelled: tuple[int, int, int]) -> None:
    """Write class indices (H, W) uint8 as an indexed PNG of ids; unlabelled pixels are 255, in the given colour."""
    image = Image.fromarray(label_map.decode(labels))
    image.putpalette([*label_map.palette[: 3 * IGNORE_INDEX], *unlabelled])
    write_image(path, image)


def read_color_labels(folder: Path, listing: Listing, label_map: LabelMap) -> Iterator[Returned]:
    """Read the PNGs below a folder by their colours, which ``listing`` explains."""
    meanings = listing.meanings(label_map.names)
    for path in files_below(folder, ".png"):
        name = frame_name(path.relative_to(folder).as_posix())
        yield Returned(name, partial(_decode, path, listing, meanings, label_map))


def _decode(
    path: Path, listing: Listing, meanings: dict[Color, str | None], label_map: LabelMap, size: tuple[int, int]
) -> np.ndarray:
    colors, unlabelled = _read_colors(path)
    check_size(colors.shape[:2], size)
    packed = colors.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    if unlabelled is not None:
        packed[unlabelled] = -1  # whatever their colour is, it means nothing
    found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    table = np.full(len(found), IGNORE_INDEX, np.uint8)
    unknown = []
    for i, value in enumerate(found.tolist()):
        color = (value >> 16, value >> 8 & 255, value & 255)
        if value < 0:
            continue
        if color not in meanings:
            unknown.append(f"{color} ({counts[i]} pixels)")
        elif (name := meanings[color]) is not None:
            table[i] = class_index(label_map, name)
    if unknown:
        raise DataError(
            f"{path}: the label holds {len(unknown)} colours without a class: {', '.join(unknown[:8])}; expected those "
            f"in {listing.name}, or black for unlabelled. Correct the label, or add the colour to {listing.name}"
        )
    return table[inverse].reshape(packed.shape)


def _read_colors(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the colours (H, W, 3) uint8 of a label and which of its pixels are transparent, (H, W) bool or None."""
    with opened_image(path) as image:
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise DataError(f"{path}: the label has the mode {image.mode!r}, expected colours of 8 bits")
        return split_alpha(np.array(upright(image).convert("RGBA")), path)


def label_folder(path: Path) -> Path:
    """Return the folder of labels; raise DataError that says what is there instead."""
    if not path.is_dir():
        others = [found.name for found in visible(path.parent)][:4] if path.parent.is_dir() else []
        raise DataError(f"there is no folder {path}; {path.parent} holds {', '.join(others) or 'nothing'}")
    return path
