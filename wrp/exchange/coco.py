"""COCO: ``annotations/instances_train.json``, one compressed RLE mask for each class in a frame; ``images/``.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#format-data. Masks are
encoded by pycocotools (extra ``coco``). Categories are numbered from 1 in the order of the classes, as some readers
take 0 for no category and sort by number. Classes are matched by name. Unlabelled pixels belong to no mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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
    check_size,
    class_index,
    decode_runs,
    reading,
)
from wrp.exchange.names import frame_name
from wrp.io.listing import list_files
from wrp.io.opening import parse_json, read_text
from wrp.io.progress import progress
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("annotations/*.json", "*.json")


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame, so that memory does not grow with their number."""
    _masks()
    path = out / "annotations" / f"instances_{SPLIT}.json"
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{"description": "labels by wrp"}}, "categories": {json.dumps(_categories(export))}')
        _write_list(file, "images", _images(export, out))
        _write_list(file, "annotations", _annotations(export))
        file.write("}\n")


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a file, or of the one in ``annotations/``; overlapping masks and polygons are refused."""
    path = path if path.is_file() else _only_file(path)
    text = read_text(path)
    with reading(path):
        content = parse_json(text)
        names = _by_id(path, "categories", content["categories"], "name")
        files = _by_id(path, "images", content["images"], "file_name")
        annotations: dict[Any, list[dict[str, Any]]] = {number: [] for number in files}
        for annotation in content["annotations"]:
            if annotation["image_id"] not in annotations:
                raise DataError(
                    f"{path}: {_call(annotation)} is of the image {annotation['image_id']!r}, which it has not"
                )
            annotations[annotation["image_id"]].append(annotation)
        images = [(frame_name(name), annotations[number]) for number, name in files.items()]
    for name, masks in images:
        yield Returned(name, partial(_decode, path, masks, names, label_map))


def _by_id(path: Path, kind: str, items: list[dict[str, Any]], key: str) -> dict[Any, str]:
    """Return names by id; raise DataError if two have one id, as it is not known then which masks are whose."""
    found: dict[Any, str] = {}
    for item in items:
        if item["id"] in found:
            raise DataError(
                f"{path}: two {kind} have the id {item['id']}: {found[item['id']]}, {item[key]}; give each its own"
            )
        found[item["id"]] = item[key]
    return found


def _call(annotation: dict[str, Any]) -> str:
    return f"the annotation {annotation.get('id', 'without an id')}"


def _masks() -> Any:
    """Return the mask functions of pycocotools; raise WrpError if it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise WrpError("COCO's masks need pycocotools: pip install 'wrp[coco]'") from error
    return mask


def _categories(export: Export) -> list[dict[str, Any]]:
    rows = zip(export.label_map.names, export.label_map.colors, strict=True)
    return [
        {"id": number, "name": name, "supercategory": "", "color": list(color)}
        for number, (name, color) in enumerate(rows, 1)
    ]


def _images(export: Export, out: Path) -> Iterator[dict[str, Any]]:
    for number, frame in enumerate(progress(export.frames, desc="Images", unit="frame"), 1):
        export.copy_image(frame, out / "images" / frame.file_name)
        with Image.open(frame.label) as label:
            width, height = label.size
        yield {"id": number, "file_name": frame.file_name, "width": width, "height": height}


def _annotations(export: Export) -> Iterator[dict[str, Any]]:
    masks, written = _masks(), 0
    for number, frame in enumerate(progress(export.frames, desc="Labels", unit="frame"), 1):
        labels = export.labels(frame)
        for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
            written += 1  # from 1: COCO's own evaluation takes the id 0 for none
            mask = masks.encode(np.asfortranarray(labels == index, np.uint8))
            yield {
                "id": written,
                "image_id": number,
                "category_id": index + 1,
                "iscrowd": 1,  # a crowd in COCO's sense, as others are turned from masks into polygons
                "area": int(masks.area(mask)),
                "bbox": masks.toBbox(mask).tolist(),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
            }


def _write_list(file: TextIO, key: str, items: Iterable[dict[str, Any]]) -> None:
    file.write(f', "{key}": [')
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item))
    file.write("]")


def _only_file(path: Path) -> Path:
    folder = path if list_files(path, (".json",)) and not (path / "annotations").is_dir() else path / "annotations"
    files = list_files(folder, (".json",)) if folder.is_dir() else []
    if len(files) != 1:
        raise DataError(f"{folder} holds {len(files)} JSON files, expected one; name the file to import")
    return files[0]


def _decode(
    path: Path, masks: list[dict[str, Any]], names: dict[Any, str], label_map: LabelMap, size: tuple[int, int]
) -> np.ndarray:
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    with reading(path):
        for annotation in masks:
            index = class_index(label_map, names[annotation["category_id"]])
            mask = _decode_mask(_segmentation(annotation), size)
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


def _decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        raise DataError("a class is given as polygons, which do not label each pixel; expected masks (RLE)")
    check_size(tuple(segmentation["size"]), size)
    counts = segmentation["counts"]
    runs = np.array(counts) if isinstance(counts, list) else _uncompress(counts)
    return decode_runs(runs, size[1], size[0]).T  # COCO's runs go column by column


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
