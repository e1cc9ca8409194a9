"""Pascal VOC: ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation/train.txt`` and ``labelmap.txt``.

Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015; ``labelmap.txt``, lines
``name:red,green,blue::``, is CVAT's addition ("Segmentation mask 1.1"); line N, counted from 0, is the class of the
value N. Frames become JPEGs, as the format requires.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wrp.exchange.base import SPLIT, Export, Returned, RunFrame
from wrp.exchange.color_lists import (
    BORDER,
    Entry,
    Listing,
    color_entries,
    label_folder,
    read_color_labels,
    read_entries,
    write_color_label,
    write_entries,
)
from wrp.io.writing import write_text
from wrp.structures import LabelMap

LABEL_MAP = "labelmap.txt"
LABELS = "SegmentationClass"
HOLDS = (LABELS,)


def write(export: Export, out: Path) -> None:
    """Write a run's labels; raise WrpError if the format cannot hold the classes."""
    entries, unlabelled = color_entries(export.label_map)
    write_entries(out / LABEL_MAP, entries, "{name}:{red},{green},{blue}::", _parse)
    names = "".join(f"{frame.name}\n" for frame in export.frames)
    write_text(out / "ImageSets" / "Segmentation" / f"{SPLIT}.txt", names)

    def write_frame(frame: RunFrame) -> None:
        export.copy_image(frame, out / "JPEGImages" / f"{frame.name}.jpg")
        write_color_label(out / LABELS / f"{frame.name}.png", export.labels(frame), export.label_map, unlabelled)

    for _ in export.each(out, write_frame):
        pass


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels in ``SegmentationClass``; the colour of VOC's borders is unlabelled unless a class has it."""
    folder = label_folder(path / LABELS)
    listing = Listing(LABEL_MAP, read_entries(path / LABEL_MAP, _parse), unlabelled=(BORDER,))
    yield from read_color_labels(folder, listing, label_map)


def _parse(line: str) -> Entry | None:
    if line.startswith("#"):
        return None
    name, color, _parts, _actions = line.rsplit(":", 3)  # names may hold colons
    red, green, blue = (int(channel) for channel in color.split(","))
    return name, (red, green, blue)
