"""YOLO segmentation: ``data.yaml``, ``labels/train/`` with a text file of polygons for each frame, ``images/train/``.

https://docs.ultralytics.com/datasets/segment/. A line is the class, counted from 0 in the order of ``data.yaml``, and
the corners of a polygon, x and y by turns, as parts of the width and the height. Each connected part of a class is a
line. A polygon has no holes, so each is cut open along a seam, a straight line to the border on its left, there and
back.

The corners are pixels, and polygons are filled with their border, by OpenCV, as programs do that train with these
files: filled so, nothing is lost. How much of each class comes back is logged nevertheless, as IoU. Colours are not in
the files. A pixel of two classes, or of none, is unlabelled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import yaml

from wrp.errors import DataError
from wrp.exchange.base import SPLIT, Export, Returned, RunFrame, class_index, files_below, reading
from wrp.exchange.names import name_path
from wrp.io.listing import list_files
from wrp.io.opening import parse_yaml, read_text
from wrp.io.writing import write_text
from wrp.structures import IGNORE_INDEX, LabelMap

logger = logging.getLogger("wrp")

DATA = "data.yaml"
HOLDS = (DATA, "labels")

ABOVE = 0.25
"""What is added to the numbers of pixels, as some programs cut off the digits behind the point, and others round."""

BEYOND = 0.01
"""How far a corner may lie outside of its frame, by rounding, as a part of the frame's size."""


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame."""
    names = dict(enumerate(export.label_map.names))
    images = f"images/{SPLIT}"
    content = {"train": images, "val": images, "names": names}  # "path" would be looked for where a program is started
    write_text(out / DATA, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def write_frame(frame: RunFrame) -> list[tuple[int, int, int]]:
        export.copy_image(frame, out / images / frame.file_name)
        labels = export.labels(frame)
        text = "".join(_lines(labels))
        write_text(out / "labels" / SPLIT / f"{frame.name}.txt", text)
        back = _paint(text, export.label_map.num_classes, (labels.shape[0], labels.shape[1]))
        both = [(index, labels == index, back == index) for index in np.unique(labels[labels != IGNORE_INDEX]).tolist()]
        return [(index, int((mask & came).sum()), int((mask | came).sum())) for index, mask, came in both]

    common, union = np.zeros((2, export.label_map.num_classes), np.int64)
    for _, counts in export.each(out, write_frame):
        for index, of_both, of_either in counts:
            common[index] += of_both
            union[index] += of_either
    ious = zip(export.label_map.names, common, union, strict=True)
    told = ", ".join(f"{name} {100 * part / whole:.2f} %" for name, part, whole in ious if whole)
    logger.info("IoU of the polygons with the labels: %s", told or "there are no labelled pixels")


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels below ``labels/``, with the classes of the YAML file beside it; boxes are refused."""
    listed = list_files(path, (".yaml", ".yml")) if path.is_dir() else []
    if len(listed) != 1:
        raise DataError(f"{path} holds {len(listed)} YAML files, expected one, such as {DATA}, which names the classes")
    text = read_text(listed[0])
    with reading(listed[0]):
        names = parse_yaml(text)["names"]
        classes = names if isinstance(names, list) else [names[number] for number in range(len(names))]
        known = [str(name) for name in classes]
    folder = path / "labels"
    if not folder.is_dir():
        raise DataError(f"{path} holds no folder labels")
    for label in files_below(folder, ".txt"):
        name = str(name_path(str(label.relative_to(folder).with_suffix(""))))
        yield Returned(name, partial(_decode, label, known, label_map))


def join_holes(outer: np.ndarray, holes: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Return one polygon for a connected part of a mask: its outer border, cut open to each hole along a seam.

    A seam leads from the leftmost pixel of a hole's border through the mask to the next border on the left, and back.

    Args:
        outer: All pixels (N, 2) of the outer border one after the other, as x and y.
        holes: The same of the borders of its holes, which run through pixels of the mask, too.
        mask: (H, W) bool or uint8.

    Returns:
        (M, 2), closed from the last corner to the first, without corners on straight lines.

    Example:
        >>> mask = np.ones((3, 4), np.uint8)
        >>> mask[1, 1] = 0
        >>> (outer, hole), _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        >>> joined = join_holes(outer[:, 0], [hole[:, 0]], mask)
        >>> filled = cv2.fillPoly(np.zeros_like(mask), [joined], 1)
        >>> bool((filled == mask).all())
        True
    """
    joined = outer
    for hole in sorted(
        holes, key=lambda corners: corners[:, 0].min()
    ):  # so that what lies to the left is there already
        start = int(hole[:, 0].argmin())
        x, y = hole[start]
        outside = np.flatnonzero(mask[y, :x] == 0)
        end = (outside[-1] + 1 if outside.size else 0, y)
        place = int(np.flatnonzero((joined == end).all(1))[0])
        around = np.roll(hole, -start, axis=0)
        joined = np.concatenate([joined[: place + 1], around, around[:1], joined[place:]])
    joined = joined[(joined != np.roll(joined, 1, axis=0)).any(1) | (np.arange(len(joined)) == 0)]
    before, after = joined - np.roll(joined, 1, axis=0), np.roll(joined, -1, axis=0) - joined
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(1) <= 0
    return joined[turns | back]


def _lines(labels: np.ndarray) -> Iterator[str]:
    """Yield a line for each connected part of each class of class indices (H, W) uint8."""
    size = np.array(labels.shape[::-1])
    for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
        mask = (labels == index).astype(np.uint8)
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        borders = [contour[:, 0] for contour in contours]
        holes: dict[int, list[np.ndarray]] = {}
        for border, (_, _, _, parent) in zip(borders, tree[0], strict=True):
            holes.setdefault(parent, []).append(border)  # -1: the outer ones
        for number, border in enumerate(borders):
            if tree[0][number][3] >= 0:
                continue
            corners = join_holes(border, holes.get(number, []), mask)
            corners = np.resize(corners, (max(3, len(corners)), 2))  # a line of fewer would be taken for a box
            yield f"{index} {' '.join(f'{part:.6f}' for part in ((corners + ABOVE) / size).ravel())}\n"


def _paint(text: str, num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """Return the class indices (H, W) uint8 that lines describe."""
    times, labels = np.zeros(size, np.uint8), np.full(size, IGNORE_INDEX, np.uint8)
    masks: dict[int, np.ndarray] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (parts := line.split()):
            continue
        index, corners = int(parts[0]), np.array(parts[1:], np.float64)
        if not 0 <= index < num_classes:
            raise DataError(f"line {number} is of the class {index}; the classes are 0 … {num_classes - 1}")
        if corners.size < 6 or corners.size % 2:
            kind = "a box" if corners.size == 4 else f"{corners.size} numbers"
            raise DataError(f"line {number} holds {kind}, expected a polygon: x and y of at least three corners")
        if not ((corners >= -BEYOND) & (corners <= 1 + BEYOND)).all():
            raise DataError(f"line {number} has corners outside of the frame; expected parts of its size, 0 … 1")
        pixels = (corners.reshape(-1, 2) * (size[1], size[0])).astype(np.int32)  # cut off, as Ultralytics does
        cv2.fillPoly(masks.setdefault(index, np.zeros(size, np.uint8)), [pixels], 1)
    for index, mask in masks.items():
        times += mask
        labels[mask == 1] = index
    labels[times > 1] = IGNORE_INDEX
    return labels


def _decode(path: Path, classes: list[str], label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    text = read_text(path)
    with reading(path):
        try:
            labels = _paint(text, len(classes), size)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
        table[index] = class_index(label_map, classes[index])
    return table[labels]
