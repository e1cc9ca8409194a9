"""labelme: a JSON file beside the image of each frame, ``<clip>/<frame>.json``, and ``labels.txt``.

https://github.com/wkentaro/labelme. Each class in a frame is a shape of the type "mask", a PNG of its bounding box, so
it is exact. ``labels.txt`` has the classes in their order, for ``labelme --labels``; their colours are not in the
files. Read are masks, and polygons and rectangles, of which the pixels count whose centres lie inside; where shapes
overlap, the later one is on top, as in labelme. Unlabelled pixels belong to no shape, or to ``__ignore__`` or
``_background_``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wrp.errors import DataError, WrpError
from wrp.exchange.base import Export, Returned, RunFrame, bounding_box, check_size, class_index, files_below, reading
from wrp.exchange.cvat import fill
from wrp.exchange.names import name_path
from wrp.io.opening import parse_json, read_text
from wrp.io.writing import write_json, write_text
from wrp.structures import IGNORE_INDEX, LabelMap

CLASSES = "labels.txt"
HOLDS = (CLASSES, "*.json", "*/*.json")

VERSION = "5.5.0"
"""A version of labelme that reads what is written here; masks came with 5.2."""

UNLABELLED = ("__ignore__", "_background_")
"""Names of labelme's own examples for pixels without a class, unless the data set has such a class."""


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame; raise WrpError if the list of classes cannot hold a name."""
    for name in export.label_map.names:
        if name.splitlines() != [name.strip()]:
            raise WrpError(f"the class name {name!r} cannot be written into {CLASSES}; rename it, or use coco")
    write_text(out / CLASSES, "".join(f"{name}\n" for name in export.label_map.names))

    def write_frame(frame: RunFrame) -> None:
        export.copy_image(frame, out / frame.file_name)
        labels = export.labels(frame)
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": [
                _shape(export.label_map.names[index], labels == index)
                for index in np.unique(labels[labels != IGNORE_INDEX]).tolist()
            ],
            "imagePath": Path(frame.file_name).name,
            "imageData": None,
            "imageHeight": labels.shape[0],
            "imageWidth": labels.shape[1],
        }
        write_json(out / f"{frame.name}.json", content)

    for _ in export.each(out, write_frame):
        pass


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of all JSON files below a folder, or of one; a frame has the name of its file."""
    folder = path.parent if path.is_file() else path
    for file in [path] if path.is_file() else files_below(path, ".json"):
        name = str(name_path(str(file.relative_to(folder).with_suffix(""))))
        yield Returned(name, partial(_decode, file, label_map))


def _shape(name: str, mask: np.ndarray) -> dict[str, Any]:
    left, top, width, height = bounding_box(mask)
    png = io.BytesIO()
    Image.fromarray(mask[top : top + height, left : left + width].astype(np.uint8)).save(png, format="PNG")
    return {
        "label": name,
        "points": [[left, top], [left + width - 1, top + height - 1]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png.getvalue()).decode("ascii"),
    }


def _decode(path: Path, label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    text = read_text(path)
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    with reading(path):
        content = parse_json(text)
        if content.get("imageHeight") is not None and content.get("imageWidth") is not None:
            check_size((int(content["imageHeight"]), int(content["imageWidth"])), size)
        for shape in content["shapes"]:
            name, kind = shape["label"], shape["shape_type"]
            ignored = name in UNLABELLED and name not in label_map.names
            index = IGNORE_INDEX if ignored else class_index(label_map, name)
            points = np.array(shape["points"], np.float64)
            if kind == "mask":
                _paint(labels, points, shape["mask"], index)
            elif kind == "rectangle" and points.shape == (2, 2):
                (left, top), (right, bottom) = points
                labels[fill(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), size)] = index
            elif kind == "polygon" and points.shape[0] >= 3:
                labels[fill(points, size)] = index
            else:
                raise DataError(f"it holds a shape of {name!r} that has no area ({kind}); draw a polygon or a mask")
    return labels


def _paint(labels: np.ndarray, points: np.ndarray, text: str, index: int) -> None:
    """Give a class to the pixels of a mask, whose first and last pixels are at these points (2, 2)."""
    (left, top), (right, bottom) = points.astype(np.int64).tolist()
    if not (0 <= left <= right < labels.shape[1] and 0 <= top <= bottom < labels.shape[0]):
        raise DataError(f"a mask from ({left}, {top}) to ({right}, {bottom}) lies outside of the frame")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
            found = (image.height, image.width)
            if found != (bottom - top + 1, right - left + 1):
                raise ValueError(f"it has {image.width}×{image.height} pixels")
            mask = np.array(image.convert("L")) > 0
    except Exception as error:  # what Pillow's PNG reader raises is of many kinds
        raise DataError(
            f"the mask from ({left}, {top}) to ({right}, {bottom}) is no PNG of this size: {error}"
        ) from error
    labels[top : bottom + 1, left : right + 1][mask] = index
