"""COCO: ``annotations/instances_train.json``, one compressed RLE mask for each class in a frame; ``images/``.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#format-data. Masks are
encoded by pycocotools (extra ``coco``). Categories are numbered from 1 in the order of the classes, as some readers
take 0 for no category and sort by number. ``iscrowd`` is 0, as trainers skip what has 1. Classes are matched by name.
Unlabelled pixels belong to no mask. Read are RLE, compressed or not, of crowds and of others, and polygons, which
pycocotools fills.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from wrp.errors import DataError, WrpError
from wrp.exchange.base import (
    SPLIT,
    Export,
    Returned,
    RunFrame,
    check_size,
    class_index,
    decode_runs,
    reading,
)
from wrp.exchange.names import frame_name
from wrp.io.grouping import grouping
from wrp.io.json_list import read_json_lists
from wrp.io.listing import list_files
from wrp.io.progress import progress
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("annotations/*.json", "*.json")

LISTS = ("categories", "images", "annotations")


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame, so that memory does not grow with their number."""
    _masks()
    path = out / "annotations" / f"instances_{SPLIT}.json"
    write_file(path, categories(export.label_map), images(export, out), _annotations(export, out))


def write_file(
    path: Path, kinds: list[dict[str, Any]], frames: Iterable[dict[str, Any]], annotations: Iterable[dict[str, Any]]
) -> None:
    """Write a file of COCO piece by piece.

    Args:
        path: The file.
        kinds: Its categories.
        frames: Its images.
        annotations: Its annotations.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{"description": "labels by wrp"}}, "categories": {json.dumps(kinds)}')
        write_list(file, "images", frames)
        write_list(file, "annotations", annotations)
        file.write("}\n")


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a file, or of the one in ``annotations/``; masks or polygons that overlap are refused.

    The masks of an image may stand anywhere in the file, so they are sorted on the disk: names alone are in memory.
    """
    path = path if path.is_file() else only_file(path)
    names, files = dict[Any, str](), dict[Any, str]()
    with grouping() as masks, reading(path):
        for kind, item in read_json_lists(path, LISTS):
            if kind == "annotations":
                masks.add(item["image_id"], item)
            else:
                note_by_id(path, kind, item, names if kind == "categories" else files)
        if unknown := [number for number in masks if number not in files]:
            called = _call(masks.items(unknown[0])[0])
            raise DataError(f"{path}: {called} is of the image {unknown[0]!r}, which it does not list")
        for number, name in files.items():
            yield Returned(frame_name(name), partial(_decode, path, partial(masks.items, number), names, label_map))


def note_by_id(path: Path, kind: str, item: dict[str, Any], found: dict[Any, str]) -> None:
    """Add the name of a category or an image; raise DataError if two have one id: whose the masks are is not known.

    Example:
        >>> found = {}
        >>> note_by_id(Path("a.json"), "categories", {"id": 1, "name": "road"}, found)
        >>> found
        {1: 'road'}
    """
    name = item["name" if kind == "categories" else "file_name"]
    if item["id"] in found:
        raise DataError(f"{path}: two {kind} have the id {item['id']}: {found[item['id']]}, {name}; give each its own")
    found[item["id"]] = name


def _call(annotation: dict[str, Any]) -> str:
    return f"the annotation {annotation.get('id', 'without an id')}"


def _masks() -> Any:
    """Return the mask functions of pycocotools; raise WrpError if it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise WrpError("COCO's masks need pycocotools: pip install 'wrp[coco]'") from error
    return mask


def categories(label_map: LabelMap) -> list[dict[str, Any]]:
    """Return the classes as COCO's categories.

    Example:
        >>> categories(LabelMap((0,), ("road",), ((128, 64, 128),)))
        [{'id': 1, 'name': 'road', 'supercategory': '', 'color': [128, 64, 128]}]
    """
    rows = zip(label_map.names, label_map.colors, strict=True)
    return [
        {"id": number, "name": name, "supercategory": "", "color": list(color)}
        for number, (name, color) in enumerate(rows, 1)
    ]


def images(export: Export, out: Path) -> Iterator[dict[str, Any]]:
    """Copy the frames to ``images/`` and yield the entries of COCO's list of images, numbered from 1."""
    for number, frame in enumerate(progress(export.frames, desc="Images", unit="frame"), 1):
        export.copy_image(frame, out / "images" / frame.file_name)
        with Image.open(frame.label) as label:
            width, height = label.size
        yield {"id": number, "file_name": frame.file_name, "width": width, "height": height}


def _annotations(export: Export, out: Path) -> Iterator[dict[str, Any]]:
    written = 0
    for number, (_, described) in enumerate(export.each(out, partial(_describe, export)), 1):
        for annotation in described:
            written += 1  # from 1: COCO's own evaluation takes the id 0 for none
            yield {"id": written, "image_id": number, **annotation}


def _describe(export: Export, frame: RunFrame) -> list[dict[str, Any]]:
    """Return the annotations of a frame without ids."""
    masks, labels, described = _masks(), export.labels(frame), []
    for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
        mask = masks.encode(np.asfortranarray(labels == index, np.uint8))
        described.append(
            {
                "category_id": index + 1,
                "iscrowd": 0,
                "area": int(masks.area(mask)),
                "bbox": masks.toBbox(mask).tolist(),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
            }
        )
    return described


def write_list(file: TextIO, key: str, items: Iterable[dict[str, Any]]) -> None:
    r"""Write a list into a JSON object that is open, item by item.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> write_list(file, "images", [{"id": 1}])
        >>> file.getvalue()
        ', "images": [\n{"id": 1}]'
    """
    file.write(f', "{key}": [')
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item))
    file.write("]")


def only_file(path: Path) -> Path:
    """Return the JSON file of a folder, or of its ``annotations/``; raise DataError if there is not exactly one."""
    folder = path if list_files(path, (".json",)) and not (path / "annotations").is_dir() else path / "annotations"
    files = list_files(folder, (".json",)) if folder.is_dir() else []
    if len(files) != 1:
        raise DataError(f"{folder} holds {len(files)} JSON files, expected one; name the file to import")
    return files[0]


def _decode(
    path: Path,
    masks: Callable[[], list[dict[str, Any]]],
    names: dict[Any, str],
    label_map: LabelMap,
    size: tuple[int, int],
) -> np.ndarray:
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    with reading(path):
        for annotation in masks():
            index = class_index(label_map, names[annotation["category_id"]])
            mask = _decode_mask(_segmentation(annotation), size, _call(annotation))
            if (mask & (labels != IGNORE_INDEX) & (labels != index)).any():
                raise DataError("masks of different classes overlap, and COCO does not define which one is on top")
            labels[mask] = index
    return labels


def _segmentation(annotation: dict[str, Any]) -> Any:
    """Return what describes the mask of an annotation; raise DataError if there is nothing."""
    segmentation = annotation.get("segmentation")
    if not segmentation or (isinstance(segmentation, dict) and not segmentation.get("counts")):
        raise DataError(f"{_call(annotation)} has no mask (segmentation); draw one, or delete the annotation")
    return segmentation


def _decode_mask(segmentation: Any, size: tuple[int, int], called: str = "") -> np.ndarray:
    if isinstance(segmentation, list):
        return _fill(segmentation, size, called)
    check_size(tuple(segmentation["size"]), size)
    counts = segmentation["counts"]
    runs = np.array(counts) if isinstance(counts, list) else _uncompress(counts)
    return decode_runs(runs, size[1], size[0]).T  # COCO's runs go column by column


def _fill(polygons: list[Any], size: tuple[int, int], called: str) -> np.ndarray:
    """Return the pixels (H, W) bool of polygons, each a list x, y, x, y …, as pycocotools fills them.

    Neighbours along a common border do not overlap. What pycocotools would take for a box, or for damage of its memory,
    is refused before.
    """
    masks, (height, width) = _masks(), size
    corners = [np.array(polygon, np.float64) for polygon in polygons]
    for one in corners:
        if one.ndim != 1 or one.size < 6 or one.size % 2:
            raise DataError(f"{called} has a polygon of {one.size} numbers, expected x and y of at least three corners")
        if not (np.abs(one.reshape(-1, 2)) <= (2 * width, 2 * height)).all():
            raise DataError(f"{called} has a polygon far outside of its frame of {width}×{height} pixels")
    found: np.ndarray = masks.decode(masks.merge(masks.frPyObjects([one.tolist() for one in corners], height, width)))
    return found.astype(bool)


def _uncompress(text: str) -> np.ndarray:
    """Return the runs of a compressed RLE, int64.

    Not by pycocotools, which reads and writes out of bounds where the text is damaged. A number is written as
    characters of 5 bits each, the lowest first, with 32 for "more follows"; the highest bit of all is its sign. From
    the fourth number on, it is added to the last but one.

    Raises:
        ValueError: If the text is malformed.
    """
    bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 32 == 0)
    lengths = np.diff(last, prepend=-1)
    if not bits.size or (bits < 0).any() or (bits > 63).any() or bits[-1] & 32 or (lengths > 7).any():
        raise ValueError("its counts are no compressed runs")
    starts = last - lengths + 1
    places = np.arange(len(bits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((bits & 31) << 5 * places, starts) - np.where(bits[last] & 16, 1 << 5 * lengths, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs
