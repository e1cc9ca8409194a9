"""Reading and writing classes.yaml, which defines what the values of label files mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageFile

from wrp.errors import DataError, is_plain
from wrp.io.opening import opened_image, parse_yaml, read_text, upright
from wrp.io.writing import write_text
from wrp.structures import IGNORE_INDEX, LabelMap

logger = logging.getLogger("wrp")

EXAMPLE = """\
ignore: 255          # a value or a list of values without a class
classes:
  - {id: 0, name: road, color: [128, 64, 128]}
  - {id: 1, name: car, color: [0, 0, 142], also: [4, 5], also_colors: [[0, 0, 70]]}  # other values that mean a car"""


# Formats and Pillow's modes of labels, and its names for how the pixels of such a file may be stored.
STORED = {
    "L": ("L",),
    "LA": ("LA",),
    "P": ("P", "P;1", "P;2", "P;4"),
    "RGB": ("RGB", "BGR"),
    "RGBA": ("RGBA", "BGRA"),
}
KINDS = ("PNG", "TIFF", "BMP")

# Ids that a message lists, for a form to fill in.
NAMED = 4


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
        content: Any = parse_yaml(read_text(path))
        entries = _entries(content)
        also_255 = any(IGNORE_INDEX in _list(entry.get("also", [])) for entry in entries)
        ignore = content.get("ignore", () if also_255 else IGNORE_INDEX) if isinstance(content, dict) else IGNORE_INDEX
        ids = tuple(entry["id"] for entry in entries)
        return LabelMap(
            ids=ids,
            names=tuple(_name(entry["name"]) for entry in entries),
            colors=tuple(_color(entry["color"], entry["name"]) for entry in entries),
            ignore=tuple(value for value in _list(ignore) if value not in ids or value != IGNORE_INDEX),
            aliases=tuple((value, entry["id"]) for entry in entries for value in _list(entry.get("also", []))),
            more_colors=tuple(
                (_color(color, entry["name"]), entry["id"])
                for entry in entries
                for color in _list(entry.get("also_colors", []))
            ),
        )
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no list of classes ({error}); expected:\n{EXAMPLE}") from error


def _entries(content: Any) -> list[dict[str, Any]]:
    """Return the classes of a classes.yaml in any form that people write, each with id, name and color.

    Besides the form of :data:`EXAMPLE`: ``names`` as a list or by id, as YOLO has it, and plain lists of names, whose
    positions are the ids. Classes without a colour get one of VOC's.
    """
    if isinstance(content, dict):
        if "classes" not in content and "names" not in content:
            raise ValueError("there is no list 'classes'")
        content = content["classes"] if "classes" in content else content["names"]
    if isinstance(content, dict):
        content = [
            {**(value if isinstance(value, dict) else {"name": value}), "id": id_} for id_, value in content.items()
        ]
    if not isinstance(content, list) or not content:
        raise ValueError(f"the classes must be a list, got {content!r:.60}")
    entries = []
    named = all(isinstance(entry, str) for entry in content)
    for position, entry in enumerate(content):
        if named:
            entry = {"id": position, "name": entry}
        if not isinstance(entry, dict):
            raise ValueError(f"the entry {entry!r:.60} has no id; expected {{id: …, name: …, color: […]}}")
        if lacking := [key for key in ("id", "name") if key not in entry]:
            raise ValueError(f"the entry {entry.get('name', entry)!r:.60} has no {lacking[0]}")
        if type(entry["id"]) is not int:
            raise ValueError(f"the id of {entry['name']!r:.60} is no whole number: {entry['id']!r:.60}")
        entries.append({"color": _voc_color(entry["id"]), **entry})
    return entries


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _voc_color(number: int) -> list[int]:
    """Return the colour of a class in the colour map of Pascal VOC, which spreads the bits of the number."""
    return [sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]


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


def numbered_classes(count: int) -> LabelMap:
    """Make classes for a network of which nothing but their number is known, in the colours of Pascal VOC.

    Args:
        count: Number of classes C; their ids are 0 … C-1, their names ``class 0`` and so on.

    Example:
        >>> numbered_classes(2).names, numbered_classes(2).colors
        (('class 0', 'class 1'), ((0, 0, 0), (128, 0, 0)))
    """
    colors = tuple((red, green, blue) for red, green, blue in map(_voc_color, range(count)))
    return LabelMap(tuple(range(count)), tuple(map(_numbered, range(count))), colors)


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
        path: An 8-bit PNG, TIFF or BMP, grey, indexed or RGB, with or without alpha. Indices may have fewer bits.

    Returns:
        (H, W) uint8, or (H, W, 3) uint8 for RGB, with one channel more where there is alpha, see :func:`split_alpha`;
        and, of an indexed file, the palette, three numbers for each colour, else None.

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
        if image.format not in KINDS:
            raise DataError(
                f"{path}: the label is a {image.format}, expected a {', '.join(KINDS)}: others change values"
            )
        # How the pixels are stored: Pillow stretches grey of fewer bits to 8, cuts off the lower half of 16, and
        # inverts files in which 0 is white.
        how = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else ""
        stored = str(how[0] if isinstance(how, tuple) else how)
        if image.mode not in STORED or stored not in STORED[image.mode]:
            raise DataError(
                f"{path}: the label has the mode {image.mode!r}, stored as {stored!r}; expected 8-bit grey or indexed "
                "ids ('L', 'P'), or the classes' colours ('RGB')"
            )
        palette = image.getpalette() if image.mode == "P" else None
        return np.array(upright(image)), palette


def split_alpha(values: np.ndarray, path: Path | str = "") -> tuple[np.ndarray, np.ndarray | None]:
    """Split the alpha channel off a label: what is fully transparent is unlabelled.

    Args:
        values: (H, W) or (H, W, 3) uint8, or with alpha (H, W, 2) or (H, W, 4).
        path: The path of the file, for the message.

    Returns:
        The values without alpha, (H, W) or (H, W, 3) uint8; and which pixels are transparent, (H, W) bool, or None
        where there is no alpha channel.

    Raises:
        DataError: If a pixel is neither opaque nor fully transparent.

    Example:
        >>> values, unlabelled = split_alpha(np.array([[[7, 255], [7, 0]]], np.uint8))
        >>> values.tolist(), unlabelled.tolist()
        ([[7, 7]], [[False, True]])
    """
    if values.ndim == 2 or values.shape[2] == 3:
        return values, None
    alpha = values[..., -1]
    if between := int(((alpha != 0) & (alpha != 255)).sum()):
        raise DataError(
            f"{path}: {between} pixels of the label are half transparent (alpha between 0 and 255): a blurred edge has "
            "no class. Export it without smoothing, or as ids"
        )
    rest = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    return np.ascontiguousarray(rest), alpha == 0


def refuse_other_palette(label_map: LabelMap, values: np.ndarray, palette: list[int], path: Path | str = "") -> None:
    """Refuse an indexed label whose palette has the classes' colours in another order than their ids.

    A palette of other colours, such as greys, says nothing about the classes and is passed over.

    Args:
        label_map: The classes.
        values: (H, W) uint8, as read from the file.
        palette: Three numbers for each colour.
        path: The path of the file, for the message.

    Raises:
        DataError: If values have the colours of other classes.

    Example:
        >>> label_map = LabelMap((0, 1), ("road", "car"), ((128, 64, 128), (0, 0, 142)))
        >>> refuse_other_palette(label_map, np.zeros((2, 3), np.uint8), [128, 64, 128, 0, 0, 142])
    """
    if len(set(label_map.colors)) < label_map.num_classes:
        return
    red, green, blue = (palette[channel::3] for channel in range(3))
    colors = {id_: (red[id_], green[id_], blue[id_]) for id_ in label_map.ids if id_ < len(blue)}
    known = dict(zip(label_map.colors, label_map.names, strict=True))
    if len(colors) < 2 or not set(colors.values()) <= {*known, (0, 0, 0)}:
        return
    own = dict(zip(label_map.ids, zip(label_map.names, label_map.colors, strict=True), strict=True))
    for value in np.flatnonzero(Image.fromarray(values).histogram()).tolist():  # faster than np.unique
        # Black says nothing: short palettes are filled up with it.
        if value in colors and colors[value] not in ((0, 0, 0), own[value][1]) and colors[value] in known:
            raise DataError(
                f"{path}: the value {value} has the colour of {known[colors[value]]!r} in the palette, but is "
                f"{own[value][0]!r} by its id; correct the ids or the colours of the classes, or export the label anew"
            )


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
            mode = "L" if values.ndim == 2 or values.shape[2] == 2 else "RGB"
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
    return LabelMap(tuple(ids), tuple(map(_numbered, ids)), tuple(colors[id_] for id_ in ids))


def is_unnamed(label_map: LabelMap) -> bool:
    """Tell whether classes have only the names that they get from their ids where nobody has named them.

    Example:
        >>> is_unnamed(numbered_classes(2)), is_unnamed(LabelMap((0,), ("road",), ((128, 64, 128),)))
        (True, False)
    """
    return label_map.names == tuple(map(_numbered, label_map.ids))


def note_on_names(label_map: LabelMap, path: Path) -> str:
    """Say how classes that have no names get them.

    Args:
        label_map: The classes.
        path: The classes.yaml in which they are to be named.

    Example:
        >>> note_on_names(numbered_classes(2), Path("drawn/classes.yaml"))
        'the classes have no names: list them in drawn/classes.yaml, in the form classes: {0: NAME, 1: NAME}'
    """
    listed = ", ".join(f"{id_}: NAME" for id_ in label_map.ids[:NAMED])
    more = ", …" if label_map.num_classes > NAMED else ""
    return f"the classes have no names: list them in {path}, in the form classes: {{{listed}{more}}}"


def require_same_classes(mine: LabelMap, theirs: LabelMap, named: str, remedy: str = "") -> None:
    """Refuse classes of other ids or names; warn where the names differ only because one side has none.

    Args:
        mine: The classes that are expected.
        theirs: The classes that are there.
        named: What has them, for the message.
        remedy: What to do, for the message.

    Raises:
        DataError: If they are not the same.

    Example:
        >>> road = LabelMap((0,), ("road",), ((128, 64, 128),))
        >>> require_same_classes(road, numbered_classes(1), "the run")
        >>> require_same_classes(road, LabelMap((0,), ("car",), ((0, 0, 142),)), "the run")
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: the run has the classes car, expected road
    """
    found, expected = (", ".join(one.names) for one in (theirs, mine))
    if mine.ids != theirs.ids:
        found, expected = (f"{names} with the ids {one.ids}" for names, one in ((found, theirs), (expected, mine)))
    elif mine.names == theirs.names:
        return
    elif is_unnamed(mine) or is_unnamed(theirs):
        logger.warning("%s has the classes %s, not %s: taken for the same, as the ids are", named, found, expected)
        return
    raise DataError(f"{named} has the classes {found}, expected {expected}{remedy}")


def class_of_number(label_map: LabelMap, name: str) -> int | None:
    """Return the index of the class whose id makes this name, if nobody has named it; None if there is none.

    Example:
        >>> class_of_number(LabelMap((7,), ("road",), ((128, 64, 128),)), "class 7")
        0
    """
    return next((index for index, id_ in enumerate(label_map.ids) if _numbered(id_) == name), None)


def _numbered(id_: int) -> str:
    """Return the name of a class that nobody has named."""
    return f"class {id_}"


def _name(value: Any) -> str:
    if type(value) not in (str, int, float):  # YAML reads the names no, off and null, and dates, as other types
        raise ValueError(f"put the name that reads {value!r} into quotes")
    if not is_plain(str(value)):
        raise ValueError(f"the name {value!r:.60} is empty, has control characters, or is no UTF-8")
    return str(value)


def _color(value: Any, name: Any) -> tuple[int, int, int]:
    """Return a colour that is written as [red, green, blue] or as '#rrggbb'."""
    given = value
    if isinstance(value, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value.removeprefix("#")))
    channels: list[Any] = list(value) if isinstance(value, list | tuple) and len(value) == 3 else [None]
    if not all(type(channel) is int and 0 <= channel <= 255 for channel in channels):
        raise ValueError(f"the colour {given!r:.60} of {name!r:.60} is not [red, green, blue] with numbers in 0 … 255")
    red, green, blue = channels
    return red, green, blue
