"""COCO: ``annotations/instances_train.json``, one compressed RLE mask for each class in a frame; ``images/``.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#format-data. Masks are
encoded by pycocotools (extra ``coco``). Categories are numbered from 1 in the order of the classes, as some readers
take 0 for no category and sort by number. Classes are matched by name. Unlabelled pixels belong to no mask.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from wrp.errors import DataError, WrpError
from wrp.exchange.frames import (
    SPLIT,
    Export,
    Returned,
    check_size,
    class_index,
    decode_runs,
    frame_name,
    reading,
)
from wrp.io.progress import progress
from wrp.structures import IGNORE_INDEX, LabelMap


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
    path = path if path.is_file() else _only_file(path / "annotations")
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        images = [(frame_name(image["file_name"]), annotations[image["id"]]) for image in content["images"]]
    for name, masks in images:
        yield Returned(name, partial(_decode, path, masks, names, label_map))


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


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.json"))
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
            mask = _decode_mask(annotation["segmentation"], size)
            if (mask & (labels != IGNORE_INDEX) & (labels != index)).any():
                raise DataError("masks of different classes overlap, and COCO does not define which one is on top")
            labels[mask] = index
    return labels


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
