"""Reading and writing classes.yaml, which defines what the values of label files mean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import ImageFile

from wrp.errors import DataError
from wrp.io.opening import opened_image, parse_yaml
from wrp.io.writing import write_text
from wrp.structures import IGNORE_INDEX, LabelMap

EXAMPLE = """\
ignore: 255          # a value or a list of values without a class
classes:
  - {id: 0, name: road, color: [128, 64, 128]}
  - {id: 1, name: car, color: [0, 0, 142], also: [4, 5], also_colors: [[0, 0, 70]]}  # other values that mean a car"""


# Pillow's modes of labels, and its names for how the pixels of such a PNG may be stored.
STORED = {"L": ("L",), "LA": ("LA",), "P": ("P", "P;1", "P;2", "P;4"), "RGB": ("RGB",)}


def read_label_map(path: Path) -> LabelMap:
    """Read a classes.yaml.

    Raises:
        DataError: If the file is missing or malformed; the message shows an example.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "classes.yaml")
        ...     _ = path.write_text("classes: [{id: 7, name: road, color: [128, 64, 128]}]")
        ...     label_map = read_label_map(path)
        >>> label_map.ids, label_map.names, label_map.ignore
        ((7,), ('road',), (255,))
    """
    if not path.is_file():
        raise DataError(f"there is no {path}; it names the classes of the labels, for example:\n{EXAMPLE}")
    try:
        content: Any = parse_yaml(path.read_text(encoding="utf-8"))
        ignore = content.get("ignore", IGNORE_INDEX)
        classes = content["classes"]
        return LabelMap(
            ids=tuple(entry["id"] for entry in classes),
            names=tuple(_name(entry["name"]) for entry in classes),
            colors=tuple(_color(entry["color"]) for entry in classes),
            ignore=tuple(ignore) if isinstance(ignore, list) else (ignore,),
            aliases=tuple((value, entry["id"]) for entry in classes for value in entry.get("also", [])),
            more_colors=tuple((_color(c), entry["id"]) for entry in classes for c in entry.get("also_colors", [])),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no list of classes ({error}); expected:\n{EXAMPLE}") from error


def write_label_map(label_map: LabelMap, path: Path) -> None:
    """Write a classes.yaml that :func:`read_label_map` reads back, with 255 for unlabelled pixels.

    Aliases and further colours are not written, as files of this package hold none.

    Example:
        >>> import tempfile
        >>> label_map = LabelMap((0, 1), ("road", "car"), ((128, 64, 128), (0, 0, 142)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_label_map(label_map, Path(folder, "classes.yaml"))
        ...     read_label_map(Path(folder, "classes.yaml")) == label_map
        True
    """
    rows = zip(label_map.ids, label_map.names, label_map.colors, strict=True)
    classes = [{"id": id_, "name": name, "color": list(color)} for id_, name, color in rows]
    write_text(path, yaml.safe_dump({"ignore": IGNORE_INDEX, "classes": classes}, sort_keys=False))


def encode_colors(label_map: LabelMap, values: np.ndarray, path: Path | str = "") -> np.ndarray:
    """Turn a label that is a colour picture into class indices; black is unlabelled, unless a class has that colour.

    Args:
        label_map: The classes.
        values: (H, W, 3) uint8, as read from the file.
        path: The file, for the message.

    Returns:
        (H, W) uint8 with 0 … C-1 and 255.

    Raises:
        DataError: If a colour belongs to no class, or to two.

    Example:
        >>> label_map = LabelMap((0, 1), ("road", "car"), ((128, 64, 128), (0, 0, 142)))
        >>> encode_colors(label_map, np.array([[[0, 0, 142], [128, 64, 128], [0, 0, 0]]], np.uint8)).tolist()
        [[1, 0, 255]]
    """
    meaning = {(0, 0, 0): IGNORE_INDEX}
    colors = [*zip(label_map.colors, label_map.ids, strict=True), *label_map.more_colors]
    meaning |= {color: label_map.ids.index(id_) for color, id_ in colors}
    if len({color for color, _ in colors}) < len(colors):
        raise DataError(f"{path}: classes have the same colour, so a colour picture cannot be their label")
    packed = values.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    found, inverse = np.unique(packed, return_inverse=True)
    table = np.empty(len(found), np.uint8)
    unknown = []
    for i, value in enumerate(found.tolist()):
        color = (value >> 16, value >> 8 & 255, value & 255)
        if color not in meaning:
            unknown.append(f"{color} ({int((packed == value).sum())} pixels)")
        table[i] = meaning.get(color, IGNORE_INDEX)
    if unknown:
        raise DataError(
            f"{path}: the label holds {len(unknown)} colours without a class: {', '.join(unknown[:8])}; expected "
            "the classes' colours, or black for unlabelled. Correct the label, or add the colour to classes.yaml."
        )
    return table[inverse].reshape(packed.shape)


def read_ids(path: Path) -> tuple[np.ndarray, list[int] | None]:
    """Read the values of a label file as they are stored, whatever they mean.

    Args:
        path: An 8-bit PNG, grey, indexed or RGB; alpha beside grey is ignored. Indices may have fewer bits.

    Returns:
        (H, W) uint8, or (H, W, 3) uint8 for RGB; and, of an indexed PNG, the palette, three numbers for each colour,
        else None.

    Raises:
        DataError: If the file is missing, damaged, or of another kind.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (3, 2), 7).save(Path(folder, "0.png"))
        ...     values, palette = read_ids(Path(folder, "0.png"))
        >>> values.tolist(), palette
        ([[7, 7, 7], [7, 7, 7]], None)
    """
    with opened_image(path) as image:
        if image.format != "PNG":
            raise DataError(f"{path}: the label is a {image.format}, expected a PNG: others change values")
        # How the pixels are stored: Pillow stretches grey of fewer bits to 8, and cuts off the lower half of 16.
        stored = str(image.tile[0][3]) if isinstance(image, ImageFile.ImageFile) else ""
        if image.mode not in STORED or stored not in STORED[image.mode]:
            raise DataError(
                f"{path}: the label has the mode {image.mode!r}, stored as {stored!r}; expected 8-bit grey or indexed "
                "ids ('L', 'P'), or the classes' colours ('RGB')"
            )
        values, palette = np.array(image), image.getpalette() if image.mode == "P" else None
    return np.ascontiguousarray(values[..., 0]) if values.ndim == 3 and values.shape[2] == 2 else values, palette


def map_from_palettes(labels: Iterable[Path]) -> LabelMap:
    """Make the classes of indexed PNGs without a classes.yaml: one for each value that occurs, in its palette's colour.

    The classes are named ``class 0`` and so on after their values; 255 is no class.

    Raises:
        DataError: If there is no label with a class, one is not indexed, or a value has two colours.

    Example:
        >>> import tempfile
        >>> from wrp.io.writing import write_label
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     road = LabelMap((7,), ("road",), ((128, 64, 128),))
        ...     write_label(Path(folder, "0.png"), np.zeros((2, 3), np.uint8), road)
        ...     label_map = map_from_palettes([Path(folder, "0.png")])
        >>> label_map.ids, label_map.names, label_map.colors
        ((7,), ('class 7',), ((128, 64, 128),))
    """
    colors: dict[int, tuple[int, int, int]] = {}
    for path in labels:
        values, palette = read_ids(path)
        if palette is None:
            mode = "L" if values.ndim == 2 else "RGB"
            raise DataError(
                f"{path} is no indexed PNG (mode {mode!r}), so its classes have to be named in a classes.yaml, "
                f"for example:\n{EXAMPLE}"
            )
        for value in np.unique(values).tolist():
            red, green, blue = ([*palette, *[0] * 768])[3 * value : 3 * value + 3]
            if value != IGNORE_INDEX and colors.setdefault(value, (red, green, blue)) != (red, green, blue):
                raise DataError(f"{path} gives the value {value} another colour than the labels before it")
    if not colors:
        raise DataError(f"there is no label that holds a class; expected indexed PNGs, or a classes.yaml:\n{EXAMPLE}")
    ids = sorted(colors)
    return LabelMap(tuple(ids), tuple(f"class {id_}" for id_ in ids), tuple(colors[id_] for id_ in ids))


def _name(value: Any) -> str:
    if type(value) not in (str, int, float):  # YAML reads the names no, off and null, and dates, as other types
        raise ValueError(f"put the name that reads {value!r} into quotes")
    return str(value)


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = value
    if not all(type(channel) is int and 0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"colour {value} is not of three whole numbers in 0 … 255")
    return red, green, blue
