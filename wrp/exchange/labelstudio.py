"""Label Studio: ``tasks.json`` with the labels as brush masks to be corrected, ``labeling.xml``, ``images/``.

A task has the labels of a frame as a prediction, one mask for each class (https://labelstud.io/guide/predictions), and
``labeling.xml`` is the labelling interface, the classes in their order and colours. Images are named as in a local
storage (https://labelstud.io/guide/storage_local) whose document root is the folder that is exported.

The exports "JSON" and "JSON-MIN" (https://labelstud.io/guide/export), which hold the masks, are read, and so is "Brush
labels to PNG": a grey PNG for each class in a task, named
``task-<id>-annotation-<id>-by-<who>-<tag>-<class>-<n>.png``. Which image a task has stands in one of those JSON files,
which has to be beside the PNGs. Values of 128 and more are the class; a pixel of two classes, or of none, is
unlabelled. Predictions count in tasks without annotations alone.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from wrp.errors import DataError
from wrp.exchange.base import Export, Returned, RunFrame, check_size, class_index, reading
from wrp.exchange.brush import INSIDE, decode_brush, encode_brush
from wrp.exchange.names import frame_name
from wrp.io.json_list import read_json_list
from wrp.io.listing import IMAGE_SUFFIXES, list_files, list_folders
from wrp.io.opening import opened_image
from wrp.io.pixels import confidence_array
from wrp.io.writing import write_text
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("*.json", "task-*.png")

TASKS, INTERFACE = "tasks.json", "labeling.xml"
TAG, IMAGE = "tag", "image"

_FILE = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-(?P<rest>.*)-\d+", re.IGNORECASE | re.DOTALL)

# What Label Studio puts before the names of files that were uploaded.
_UPLOADED = re.compile(r"^.*/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?")


def write(export: Export, out: Path) -> None:
    """Write a run's labels task by task, so that memory does not grow with their number."""
    write_text(out / INTERFACE, _interface(export.label_map))

    def describe(frame: RunFrame) -> dict[str, Any]:
        export.copy_image(frame, out / "images" / frame.file_name)
        return _describe(frame, export)

    with (out / TASKS).open("w", encoding="utf-8") as file:
        for number, (frame, found) in enumerate(export.each(out, describe), 1):
            task = _task(number, frame, export.label_map, **found)
            file.write(("[" if number == 1 else ",\n") + json.dumps(task))
        file.write("]\n")


def _interface(label_map: LabelMap) -> str:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
    labels = ElementTree.SubElement(view, "BrushLabels", name=TAG, toName=IMAGE)
    for name, color in zip(label_map.names, label_map.colors, strict=True):
        ElementTree.SubElement(labels, "Label", value=name, background="#{:02x}{:02x}{:02x}".format(*color))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _describe(frame: RunFrame, export: Export) -> dict[str, Any]:
    """Return the size (H, W) of a frame, its mean confidence, and each class index with its mask."""
    labels = export.labels(frame)
    indices = np.unique(labels[labels != IGNORE_INDEX]).tolist()
    score = round(float(confidence_array(frame.confidence).mean()), 4)
    masks = [(index, encode_brush(labels == index)) for index in indices]
    return {"size": labels.shape, "score": score, "masks": masks}


def _task(
    number: int,
    frame: RunFrame,
    label_map: LabelMap,
    size: tuple[int, int],
    score: float,
    masks: list[tuple[int, list[int]]],
) -> dict[str, Any]:
    height, width = size
    place = {"original_width": width, "original_height": height, "image_rotation": 0}
    regions = [
        {
            "id": f"{number}-{index}",
            "from_name": TAG,
            "to_name": IMAGE,
            "type": "brushlabels",
            **place,
            "value": {
                "format": "rle",
                "rle": rle,
                "brushlabels": [label_map.names[index]],
            },
        }
        for index, rle in masks
    ]
    return {
        "id": number,
        "data": {IMAGE: f"/data/local-files/?d={quote(f'images/{frame.file_name}')}"},
        "predictions": [{"model_version": "wrp", "score": score, "result": regions}],
    }


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a folder with one JSON file, or of that file: the PNGs, or else the masks in the JSON.

    The file is read task by task, so that memory does not grow with the masks.
    """
    listing, folder = (path, path.parent) if path.is_file() else (_only_file(path), path)
    images, classes, has_masks = dict[int, str](), dict[str, tuple[str, ...]](), False
    with reading(listing):
        for task in read_json_list(listing):
            _note_image(listing, task, images)
            has_masks |= any("rle" in region for regions in _annotated(task) for region in regions)
            classes |= {_in_file_name(labels): labels for labels in _drawn(task)}
    drawn = defaultdict(list)
    for file, task, annotation, rest in _masks(folder):
        if task not in images:
            raise DataError(f"{file.name} is of task {task}, which {listing.name} does not list; export both at once")
        drawn[task, annotation].append((file, rest))
    if not drawn and has_masks:
        with reading(listing):
            for task in read_json_list(listing):
                for regions in _annotated(task):
                    yield Returned(images[int(task["id"])], partial(_decode_regions, listing, regions, label_map))
        return
    if not drawn:
        raise DataError(
            f"{listing} holds no brush masks, and {folder} holds no files task-<id>-annotation-<id>-by-….png; export "
            "'JSON', or 'Brush labels to PNG'"
        )
    classes = classes or {_in_file_name((name,)): (name,) for name in label_map.names}
    for (task, _), files in drawn.items():
        yield Returned(images[task], partial(_decode, files, classes, label_map))


def _annotated(task: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the regions of each annotation of a task, or else of its predictions, with what their values hold."""
    if not isinstance(task.get("data"), dict):  # JSON-MIN, an annotation with its regions under the names of tags
        lists = [value for value in task.values() if isinstance(value, list)]
        return [[region for value in lists for region in value if isinstance(region, dict)]]
    annotations = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
    chosen = annotations or task.get("predictions") or []
    return [[region | (region.get("value") or {}) for region in one["result"]] for one in chosen]


def _decode_regions(
    path: Path, regions: list[dict[str, Any]], label_map: LabelMap, size: tuple[int, int]
) -> np.ndarray:
    with reading(path):
        return _combine(_masks_of(regions, size), label_map, size)


def _masks_of(regions: list[dict[str, Any]], size: tuple[int, int]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yield the classes and the mask (H, W) bool of each brush region; raise DataError for other shapes."""
    named = {region.get("id") for region in regions if region.get("brushlabels") or region.get("labels")}
    for region in regions:
        if "rle" not in region:
            if kinds := [key for key in region if key.endswith("labels")]:
                raise DataError(f"it holds shapes that are no brush masks ({kinds[0]}); draw them with the brush")
            continue
        names = region.get("brushlabels") or region.get("labels")
        if not names and "id" in region and region["id"] in named:
            continue  # the tags Brush and Labels give a region twice, once without its class
        if not names:
            raise DataError("it holds a brush mask without a class; give it one, or delete it")
        if region.get("image_rotation"):
            raise DataError(f"the image is turned by {region['image_rotation']}°; turn it back in Label Studio")
        height, width = int(region["original_height"]), int(region["original_width"])
        check_size((height, width), size)
        yield tuple(str(name) for name in names), decode_brush(region["rle"], height, width)


def _only_file(folder: Path) -> Path:
    files = list_files(folder, (".json",))
    if len(files) != 1:
        raise DataError(
            f"{folder} holds {len(files)} JSON files, expected one, which says which image a task has: export the "
            "project as JSON-MIN as well, and put the file beside the PNGs"
        )
    return files[0]


def _note_image(listing: Path, task: dict[str, Any], images: dict[int, str]) -> None:
    """Add the name of a task's image; a task occurs once for each annotation."""
    name = _image_name(_image_of(listing, task))
    if images.setdefault(int(task["id"]), name) != name:
        raise DataError(f"{listing}: two tasks have the id {task['id']}: {images[int(task['id'])]}, {name}")


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
    def masks() -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        for path, rest in files:
            mask = _read_mask(path)
            check_size(mask.shape, size)
            yield _classes_of(path, rest, classes), mask

    return _combine(masks(), label_map, size)


def _combine(
    drawn: Iterable[tuple[tuple[str, ...], np.ndarray]], label_map: LabelMap, size: tuple[int, int]
) -> np.ndarray:
    """Return the class indices (H, W) uint8 of masks (H, W) bool; a pixel of two classes, or of none, is 255."""
    masks: dict[int, np.ndarray] = {}
    for names, mask in drawn:
        for name in names:
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
