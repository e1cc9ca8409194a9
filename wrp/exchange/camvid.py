"""CamVid as in SegNet and datumaro: ``train/``, ``trainannot/``, ``train.txt``, and CamVid's ``label_colors.txt``.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 30(2), 2009; folders of
Badrinarayanan, Kendall, Cipolla, "SegNet", TPAMI 2017, with one below them for each clip. A line of the list of
colours is ``red green blue name``; line N, counted from 0, is the class of the value N. A line of ``train.txt`` holds
the paths of an image and of its label. Both begin with a slash, as in SegNet's lists, which means the exported folder;
all of them are in quotes if one has a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wrp.errors import DataError
from wrp.exchange.base import SPLIT, Export, Returned, RunFrame
from wrp.exchange.color_lists import (
    Entry,
    Listing,
    color_entries,
    read_color_labels,
    read_entries,
    write_color_label,
    write_entries,
)
from wrp.io.listing import list_folders
from wrp.io.writing import write_text
from wrp.structures import LabelMap

COLORS = "label_colors.txt"
HOLDS = (COLORS, "*annot")


def write(export: Export, out: Path) -> None:
    """Write a run's labels; raise WrpError if the format cannot hold the classes."""
    entries, unlabelled = color_entries(export.label_map)
    write_entries(out / COLORS, entries, "{red} {green} {blue} {name}", _parse)

    def write_frame(frame: RunFrame) -> tuple[str, str]:
        image, label = f"{SPLIT}/{frame.file_name}", f"{SPLIT}annot/{frame.name}.png"
        export.copy_image(frame, out / image)
        write_color_label(out / label, export.labels(frame), export.label_map, unlabelled)
        return f"/{image}", f"/{label}"

    pairs = [pair for _, pair in export.each(out, write_frame)]
    quote = '"' if any(" " in path for pair in pairs for path in pair) else ""
    write_text(
        out / f"{SPLIT}.txt", "".join(f"{quote}{image}{quote} {quote}{label}{quote}\n" for image, label in pairs)
    )


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels in all folders ``<split>annot``; raise DataError if there is none."""
    folders = [folder for folder in list_folders(path) if folder.name.endswith("annot")] if path.is_dir() else []
    if not folders:
        raise DataError(f"{path} holds no folder such as {SPLIT}annot")
    entries = read_entries(path / COLORS, _parse)
    for folder in folders:
        yield from read_color_labels(folder, Listing(COLORS, entries), label_map)


def _parse(line: str) -> Entry | None:
    if line.startswith("#"):
        return None
    red, green, blue, name = line.split(maxsplit=3)
    return name, (int(red), int(green), int(blue))
