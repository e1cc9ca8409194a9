"""CVAT for video 1.1: for each clip ``annotations.xml``, ``labels.json`` and, unless it is a video, ``images/``.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat, and https://docs.cvat.ai/docs/other/xml_format for
the file. A task of CVAT is one video or one sequence of images, so there is a folder for each clip. Frames are
numbers: those of a video, or else the places in ``images/``, counted from 0; ``frames.txt`` names them, line by line.
Each mask is a track of its own, which is "outside" from the next frame on: so CVAT writes masks, too, as it does not
track them, and of a longer track of masks it would read the first alone.

Masks, polygons and boxes of tracks are read, as by :mod:`wrp.exchange.cvat`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import XMLGenerator

from wrp.errors import DataError
from wrp.exchange import cvat
from wrp.exchange.base import Export, Returned, RunFrame
from wrp.exchange.cvat import element, encode_masks, label_entries, write_element
from wrp.io.opening import read_text
from wrp.io.writing import write_json, write_text
from wrp.structures import LabelMap, VideoFrame

FILE, FRAMES = "annotations.xml", "frames.txt"
HOLDS = (FILE, f"*/{FILE}")

_NUMBER = re.compile(r"frame_(\d+)")


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame, so that memory does not grow with their number."""
    sizes = dict[str, int]()
    for clip, of_clip in groupby(export.frames, lambda frame: frame.clip):
        sizes[clip] = list(map(_number, count(), of_clip))[-1] + 1

    def describe(frame: RunFrame) -> dict[str, Any]:
        if not isinstance(frame.image, VideoFrame):
            export.copy_image(frame, out / frame.clip / "images" / Path(frame.file_name).name)
        return encode_masks(export.labels(frame))

    for clip, frames in groupby(export.each(out, describe), lambda pair: pair[0].clip):
        _write_clip(frames, export.label_map, out / clip, sizes[clip])


def _number(place: int, frame: RunFrame) -> int:
    """Return the number of a frame in CVAT: that in its video, or its place among the images."""
    return frame.image.number if isinstance(frame.image, VideoFrame) else place


def _write_clip(frames: Iterator[tuple[RunFrame, Any]], label_map: LabelMap, folder: Path, size: int) -> None:
    labels = label_entries(label_map)
    write_json(folder / "labels.json", [label | {"attributes": []} for label in labels])
    names = [""] * size
    with (folder / FILE).open("w", encoding="utf-8") as file:
        xml = XMLGenerator(file, "utf-8")
        xml.startDocument()
        with element(xml, "annotations"):
            write_element(xml, "version", "1.1")
            tracks = 0
            for place, (frame, found) in enumerate(frames):
                number = _number(place, frame)
                names[number] = frame.stem
                if place == 0:
                    _write_meta(xml, folder.name, size, labels, found["size"])
                for index, mask in found["masks"]:
                    track = {"id": str(tracks), "label": label_map.names[index], "source": "auto"}
                    with element(xml, "track", track):
                        _write_mask(xml, number, mask, outside=False)
                        if number + 1 < size:
                            _write_mask(xml, number + 1, mask, outside=True)
                    tracks += 1
        xml.endDocument()
    write_text(folder / FRAMES, "".join(f"{name}\n" for name in names))


def _write_meta(xml: XMLGenerator, clip: str, size: int, labels: list[dict[str, str]], pixels: tuple[int, int]) -> None:
    with element(xml, "meta"), element(xml, "task"):
        write_element(xml, "name", clip)
        write_element(xml, "size", str(size))
        write_element(xml, "mode", "interpolation")
        write_element(xml, "start_frame", "0")
        write_element(xml, "stop_frame", str(size - 1))
        with element(xml, "labels"):
            for label in labels:
                with element(xml, "label"):
                    for tag, text in label.items():
                        write_element(xml, tag, text)
        with element(xml, "original_size"):
            write_element(xml, "width", str(pixels[1]))
            write_element(xml, "height", str(pixels[0]))


def _write_mask(xml: XMLGenerator, number: int, mask: dict[str, str], outside: bool) -> None:
    place = {"frame": str(number), "keyframe": "1", "outside": str(int(outside)), "occluded": "0", "z_order": "0"}
    with element(xml, "mask", place | mask):
        pass


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a file, or of all files ``annotations.xml`` in a folder and in folders below it.

    The folder of a file is the name of its clip. The names of frames are those in ``frames.txt`` beside it, if there is
    one; otherwise a frame is known by its number.
    """
    files = [path] if path.is_file() else sorted(path.rglob(FILE))
    if not files:
        raise DataError(f"{path} holds no {FILE}; export each clip as 'CVAT for video 1.1' into a folder of its name")
    for file in files:
        clip = "" if file.parent == path or path.is_file() else file.parent.relative_to(path).as_posix() + "/"
        listing = file.with_name(FRAMES)
        names = read_text(listing).splitlines() if listing.is_file() else []
        for label in cvat.read(file, label_map):
            number = _NUMBER.fullmatch(label.name)
            known = number is not None and int(number[1]) < len(names) and names[int(number[1])]
            yield replace(label, name=clip + (known or label.name))
