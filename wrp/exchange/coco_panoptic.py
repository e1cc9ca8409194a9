"""COCO panoptic: ``annotations/panoptic_train.json``, a PNG of segments for each frame beside it, ``images/``.

Kirillov et al., "Panoptic Segmentation", CVPR 2019; https://cocodataset.org/#format-data, *4. Panoptic Segmentation*.
The number of a pixel's segment is red + 256 green + 65536 blue, and the JSON file has the category of each segment.
Here, a class in a frame is one segment, numbered as its category, and no "thing", as instances are not told apart.
Unlabelled pixels are 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wrp.errors import DataError
from wrp.exchange.base import SPLIT, Export, Returned, RunFrame, bounding_box, check_size, class_index, reading
from wrp.exchange.coco import LISTS, categories, images, note_by_id, only_file, write_file
from wrp.exchange.names import frame_name
from wrp.io.json_list import read_json_lists
from wrp.io.opening import opened_image
from wrp.io.writing import write_image
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("annotations/*.json", "*.json")


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame, so that memory does not grow with their number."""
    path = out / "annotations" / f"panoptic_{SPLIT}.json"
    kinds = [category | {"isthing": 0} for category in categories(export.label_map)]
    write_file(path, kinds, images(export, out), _annotations(export, out, path.with_suffix("")))


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a file, or of the one in ``annotations/``; the PNGs are in the folder of the file's name."""
    path = path if path.is_file() else only_file(path)
    names, files = dict[Any, str](), dict[Any, str]()
    with reading(path):
        for kind, item in read_json_lists(path, LISTS):
            if kind != "annotations":
                note_by_id(path, kind, item, names if kind == "categories" else files)
        for kind, annotation in read_json_lists(path, LISTS):  # again, as the names may come behind
            if kind != "annotations":
                continue
            if annotation["image_id"] not in files:
                image = annotation["image_id"]
                raise DataError(f"{path}: {annotation['file_name']} is of the image {image!r}, which it does not list")
            frame_name(annotation["file_name"])  # refuses names that lead out of the folder
            label = path.with_suffix("") / annotation["file_name"].replace("\\", "/").lstrip("/")
            classes = {segment["id"]: names[segment["category_id"]] for segment in annotation["segments_info"]}
            yield Returned(frame_name(files[annotation["image_id"]]), partial(_decode, label, classes, label_map))


def _annotations(export: Export, out: Path, folder: Path) -> Iterator[dict[str, Any]]:
    for number, (frame, segments) in enumerate(export.each(out, partial(_write_segments, export, folder)), 1):
        yield {"image_id": number, "file_name": f"{frame.name}.png", "segments_info": segments}


def _write_segments(export: Export, folder: Path, frame: RunFrame) -> list[dict[str, Any]]:
    """Write the picture of a frame, and return what its segments are."""
    labels = export.labels(frame)
    segments = np.zeros((*labels.shape, 3), np.uint8)
    segments[..., 0] = np.where(labels == IGNORE_INDEX, 0, labels + 1)
    write_image(folder / f"{frame.name}.png", Image.fromarray(segments))
    described = []
    for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
        mask = labels == index
        segment = {"id": index + 1, "category_id": index + 1, "area": int(mask.sum())}
        described.append(segment | {"bbox": list(bounding_box(mask)), "iscrowd": 0})
    return described


def _decode(path: Path, classes: dict[int, str], label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    with opened_image(path) as image:
        if image.mode != "RGB":
            raise DataError(f"{path}: the picture of segments has the mode {image.mode!r}, expected 'RGB'")
        pixels = np.array(image).astype(np.int64) @ (1, 1 << 8, 1 << 16)
    check_size(pixels.shape, size)
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    for segment in np.unique(pixels[pixels != 0]).tolist():
        if segment not in classes:
            raise DataError(f"{path} holds the segment {segment}, which the JSON file does not list")
        labels[pixels == segment] = class_index(label_map, classes[segment])
    return labels
