"""Labels as indexed PNGs whose colours are explained by a list, as in VOC and CamVid.

The values are the ids of the data set, 255 is unlabelled; the palette shows the colours of the list. They are read by
their colours, as programs that write such files number the classes in their own ways, or write RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from wrp.errors import DataError, WrpError
from wrp.exchange.frames import Returned, check_size, class_index, reading
from wrp.io.images import read_image
from wrp.io.label_map import encode_colors
from wrp.io.writing import write_image, write_text
from wrp.structures import IGNORE_INDEX, LabelMap

Entry = tuple[str, tuple[int, int, int]]
"""Name and colour of a class."""

# Names for pixels without a class in lists, unless the data set has a class of this name.
UNLABELLED = ("background", "unlabelled", "void")

# Black, unless a class is black; then VOC's colour for pixels without a class.
UNLABELLED_COLORS = ((0, 0, 0), (224, 224, 192), *((grey, grey, grey) for grey in range(255, 0, -1)))


def color_entries(label_map: LabelMap) -> list[Entry]:
    """Return the entries of a list: unlabelled pixels first, then the classes in their order.

    Raises:
        WrpError: If two classes have one colour, or every name for unlabelled pixels is that of a class.
    """
    if len(set(label_map.colors)) < label_map.num_classes:
        color = next(color for color in label_map.colors if label_map.colors.count(color) > 1)
        names = [name for name, of_it in zip(label_map.names, label_map.colors, strict=True) if of_it == color]
        raise WrpError(
            f"the classes {', '.join(names)} share the colour {color}, by which this format tells them apart"
        )
    free = [name for name in UNLABELLED if name not in label_map.names]
    if not free:
        raise WrpError(f"this format needs one of the names {', '.join(UNLABELLED)} for pixels without a class")
    color = next(color for color in UNLABELLED_COLORS if color not in label_map.colors)
    return [(free[0], color), *zip(label_map.names, label_map.colors, strict=True)]


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


def read_entries(path: Path, parse: Callable[[str], Entry | None]) -> list[Entry]:
    """Read a list of classes; raise DataError if there is none, or it is damaged."""
    with reading(path):
        entries = [parse(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [entry for entry in entries if entry is not None]


def write_color_label(path: Path, labels: np.ndarray, label_map: LabelMap, unlabelled: tuple[int, int, int]) -> None:
    """Write class indices (H, W) uint8 as an indexed PNG of ids; unlabelled pixels are 255, in the given colour."""
    image = Image.fromarray(label_map.decode(labels))
    image.putpalette([*label_map.palette[: 3 * IGNORE_INDEX], *unlabelled])
    write_image(path, image)


def read_color_labels(folder: Path, entries: list[Entry], label_map: LabelMap) -> Iterator[Returned]:
    """Read the PNGs below a folder by their colours, which ``entries`` explain."""
    with reading(folder):
        listed = LabelMap(tuple(range(len(entries))), *_columns(entries))
    for path in sorted(folder.rglob("*.png")):
        yield Returned(path.relative_to(folder).with_suffix("").as_posix(), partial(_decode, path, listed, label_map))


def _columns(entries: Sequence[Entry]) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    return tuple(name for name, _ in entries), tuple(color for _, color in entries)


def _decode(path: Path, listed: LabelMap, label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    pixels = read_image(path).permute(1, 2, 0).numpy()
    check_size(pixels.shape[:2], size)
    positions = encode_colors(listed, pixels, path)
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for position in np.unique(positions[positions != IGNORE_INDEX]).tolist():
        name = listed.names[position]
        if name in label_map.names or name not in UNLABELLED:
            table[position] = class_index(label_map, name)
    return table[positions]


def label_folder(path: Path) -> Path:
    """Return the folder of labels; raise DataError if it is not there."""
    if not path.is_dir():
        raise DataError(f"there is no folder {path}")
    return path
