"""classes.yaml: what the values of label files mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wrp.types import IGNORE_INDEX, DataError, LabelMap

EXAMPLE = """\
ignore: 255          # a value or a list of values without a class
classes:
  - {id: 0, name: road, color: [128, 64, 128]}
  - {id: 1, name: car, color: [0, 0, 142]}"""


def read_label_map(path: Path) -> LabelMap:
    """Read a classes.yaml.

    Raises:
        DataError: If the file is missing or does not say what is expected, with an example.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}; it names the classes of the labels, for example:\n{EXAMPLE}")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        ignore = content.get("ignore", IGNORE_INDEX)
        classes = content["classes"]
        return LabelMap(
            ids=tuple(entry["id"] for entry in classes),
            names=tuple(_name(entry["name"]) for entry in classes),
            colors=tuple(_color(entry["color"]) for entry in classes),
            ignore=tuple(ignore) if isinstance(ignore, list) else (ignore,),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no list of classes ({error}); expected:\n{EXAMPLE}") from error


def write_label_map(label_map: LabelMap, path: Path) -> None:
    """Write a classes.yaml that :func:`read_label_map` reads back; its 255 is the value of unlabelled pixels."""
    rows = zip(label_map.ids, label_map.names, label_map.colors, strict=True)
    classes = [{"id": id_, "name": name, "color": list(color)} for id_, name, color in rows]
    path.write_text(yaml.safe_dump({"ignore": IGNORE_INDEX, "classes": classes}, sort_keys=False), encoding="utf-8")


def _name(value: Any) -> str:
    if isinstance(value, bool) or value is None:  # YAML reads the names no, off and null so
        raise ValueError(f"put the name that reads {value!r} into quotes")
    return str(value)


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in value)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"colour {value} is not in 0 … 255")
    return red, green, blue
