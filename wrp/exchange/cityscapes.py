"""Cityscapes: ``leftImg8bit/train/<clip>/``, ``gtFine/train/<clip>/*_labelIds.png`` and ``*_color.png``.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. A clip takes the place of a
city. The ids are those of the data set, 255 is unlabelled; as the format has no place for names, ``classes.yaml``
defines their meaning. Frames become PNGs, as the format requires.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from wrp.errors import DataError
from wrp.exchange.base import SPLIT, Export, Returned, RunFrame, class_index
from wrp.exchange.names import name_path
from wrp.io.label_map import read_label_map, write_label_map
from wrp.io.pixels import label_array
from wrp.io.writing import write_image
from wrp.structures import IGNORE_INDEX, LabelMap

CLASSES = "classes.yaml"
LABEL_SUFFIX = "_gtFine_labelIds.png"
HOLDS = ("gtFine",)


def write(export: Export, out: Path) -> None:
    """Write a run's labels."""
    write_label_map(export.label_map, out / CLASSES)

    def write_frame(frame: RunFrame) -> None:
        export.copy_image(frame, out / "leftImg8bit" / SPLIT / f"{frame.name}_leftImg8bit.png")
        labels = export.labels(frame)
        label = out / "gtFine" / SPLIT / f"{frame.name}{LABEL_SUFFIX}"
        write_image(label, Image.fromarray(export.label_map.decode(labels)))
        colors = Image.fromarray(export.label_map.colorize(labels))
        write_image(label.with_name(f"{frame.stem}_gtFine_color.png"), colors)

    for _ in export.each(out, write_frame):
        pass


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of all splits, with the ids of ``classes.yaml``; raise DataError if there are none."""
    theirs = read_label_map(path / CLASSES)
    found = sorted(file for file in path.glob(f"gtFine/*/*/*{LABEL_SUFFIX}") if not file.name.startswith("."))
    if not found:
        raise DataError(f"{path} holds no labels gtFine/<split>/<clip>/<frame>{LABEL_SUFFIX}")
    for label in found:
        name = str(name_path(f"{label.parent.name}/{label.name.removesuffix(LABEL_SUFFIX)}"))
        yield Returned(name, partial(_decode, label, theirs, label_map))


def _decode(path: Path, theirs: LabelMap, label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    labels = label_array(path, theirs, size)
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
        table[index] = class_index(label_map, theirs.names[index])
    return table[labels]
