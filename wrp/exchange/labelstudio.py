"""Label Studio's "Brush labels to PNG": a grey PNG for each class in a task; only read.

https://labelstud.io/guide/export. The PNGs are named ``task-<id>-annotation-<id>-by-<who>-<tag>-<class>-<n>.png``: not
after the image. Which image a task has stands in the export "JSON" or "JSON-MIN", a file beside them. Values of 128 and
more are the class; a pixel of two classes, or of none, is unlabelled.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from wrp.errors import DataError
from wrp.exchange.base import Returned, check_size, class_index, reading
from wrp.exchange.names import frame_name
from wrp.io.listing import IMAGE_SUFFIXES, list_files, list_folders
from wrp.io.opening import opened_image, parse_json, read_text
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("*.json", "task-*.png")

INSIDE = 128
"""The least value of a pixel that belongs to the class."""

_FILE = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-(?P<rest>.*)-\d+", re.IGNORECASE | re.DOTALL)

# What Label Studio puts before the names of files that were uploaded.
_UPLOADED = re.compile(r"^.*/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?")


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a folder of PNGs with one JSON file, or of that file in such a folder."""
    listing, folder = (path, path.parent) if path.is_file() else (_only_file(path), path)
    text = read_text(listing)
    with reading(listing):
        tasks = parse_json(text)
        images = _images(listing, tasks)
        classes = {_in_file_name(labels): labels for labels in _drawn(tasks)}
    drawn = defaultdict(list)
    for file, task, annotation, rest in _masks(folder):
        if task not in images:
            raise DataError(f"{file.name} is of task {task}, which {listing.name} does not list; export both at once")
        drawn[task, annotation].append((file, rest))
    if not drawn:
        raise DataError(f"{folder} holds no files task-<id>-annotation-<id>-by-….png; export 'Brush labels to PNG'")
    classes = classes or {_in_file_name((name,)): (name,) for name in label_map.names}
    for (task, _), files in drawn.items():
        yield Returned(images[task], partial(_decode, files, classes, label_map))


def _only_file(folder: Path) -> Path:
    files = list_files(folder, (".json",))
    if len(files) != 1:
        raise DataError(
            f"{folder} holds {len(files)} JSON files, expected one, which says which image a task has: export the "
            "project as JSON-MIN as well, and put the file beside the PNGs"
        )
    return files[0]


def _images(listing: Path, tasks: list[dict[str, Any]]) -> dict[int, str]:
    """Return the name of each task's image; a task occurs once for each annotation."""
    found: dict[int, str] = {}
    for task in tasks:
        name = _image_name(_image_of(listing, task))
        if found.setdefault(int(task["id"]), name) != name:
            raise DataError(f"{listing}: two tasks have the id {task['id']}: {found[int(task['id'])]}, {name}")
    return found


def _image_of(listing: Path, task: dict[str, Any]) -> str:
    """Return what a task's data say of its image, whatever the name of the field is."""
    data = {key: value for key, value in task.get("data", task).items() if isinstance(value, str)}
    pictures = [
        key for key, value in data.items() if PurePosixPath(_image_path(value)).suffix.lower() in IMAGE_SUFFIXES
    ]
    chosen = "image" if "image" in data else pictures[0] if len(pictures) == 1 else None
    if chosen is None:
        raise DataError(f"{listing}: task {task['id']} names {len(pictures)} images, expected one")
    return data[chosen]


def _image_path(value: str) -> str:
    """Return the path in a URL: of a web page, of a storage, or of Label Studio's own for local files."""
    value = value.replace("\\", "/")
    if "://" not in value and not value.startswith("/data/"):
        return value
    url = urlsplit(value)
    local = parse_qs(url.query).get("d")
    return local[0].replace("\\", "/") if local else unquote(url.path)


def _image_name(value: str) -> str:
    return frame_name(_UPLOADED.sub("", _image_path(value)))


def _drawn(content: Any) -> Iterator[tuple[str, ...]]:
    """Yield the classes of each region, which both kinds of JSON hold somewhere under the name of the tag."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("brushlabels", "labels") and isinstance(value, list) and value:
                yield tuple(str(name) for name in value)
            else:
                yield from _drawn(value)
    elif isinstance(content, list):
        for value in content:
            yield from _drawn(value)


def _in_file_name(labels: tuple[str, ...]) -> str:
    return "-".join(labels).replace("/", "-").replace("\\", "-")


def _masks(folder: Path) -> Iterator[tuple[Path, int, int, str]]:
    """Yield the PNGs of a folder and those below it: path, task, annotation, and the rest of the name."""
    for path in list_files(folder, (".png",)):
        if (match := _FILE.fullmatch(path.stem)) is not None:
            yield path, int(match["task"]), int(match["annotation"]), match["rest"]
    for below in list_folders(folder):
        yield from _masks(below)


def _decode(
    files: list[tuple[Path, str]], classes: dict[str, tuple[str, ...]], label_map: LabelMap, size: tuple[int, int]
) -> np.ndarray:
    masks: dict[int, np.ndarray] = {}
    for path, rest in files:
        mask = _read_mask(path)
        check_size(mask.shape, size)
        for name in _classes_of(path, rest, classes):
            index = class_index(label_map, name)
            masks[index] = masks.get(index, False) | mask
    times = sum(mask.astype(np.uint8) for mask in masks.values())
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    for index, mask in masks.items():
        labels[mask & (times == 1)] = index
    return labels


def _classes_of(path: Path, rest: str, classes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the classes of a file, whose name ends in them: the longest that fits, as one may end in another."""
    fitting = [written for written in classes if rest.endswith(f"-{written}")]
    if not fitting:
        raise DataError(f"{path.name} names none of the classes {', '.join(classes)}")
    return classes[max(fitting, key=len)]


def _read_mask(path: Path) -> np.ndarray:
    """Read which pixels (H, W) bool belong to the class."""
    with opened_image(path) as image:
        if image.mode not in ("1", "L"):
            raise DataError(f"{path.name}: the mask has the mode {image.mode!r}, expected 8-bit grey ('L')")
        return np.array(image.convert("L")) >= INSIDE
