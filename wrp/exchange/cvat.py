"""CVAT for images 1.1: ``annotations.xml`` with a mask for each class in a frame; ``images/``; ``labels.json``.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat. A mask is its bounding box and the lengths of its
runs, row by row in the box, so it is exact; CVAT's other formats turn masks into polygons, or lose their order.
``labels.json`` is for the raw view of CVAT's constructor of labels. Unlabelled pixels belong to no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from wrp.errors import DataError
from wrp.exchange.frames import (
    Export,
    Returned,
    RunFrame,
    check_size,
    class_index,
    decode_runs,
    encode_runs,
    frame_name,
    reading,
)
from wrp.io.progress import progress
from wrp.io.writing import write_json
from wrp.structures import IGNORE_INDEX, LabelMap


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame, so that memory does not grow with their number."""
    labels = [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color), "type": "mask"}
        for name, color in zip(export.label_map.names, export.label_map.colors, strict=True)
    ]
    write_json(out / "labels.json", [label | {"attributes": []} for label in labels])
    with (out / "annotations.xml").open("w", encoding="utf-8") as file:
        xml = XMLGenerator(file, "utf-8")
        xml.startDocument()
        with _element(xml, "annotations"):
            _write_text(xml, "version", "1.1")
            _write_meta(xml, labels, len(export.frames))
            for number, frame in enumerate(progress(export.frames, desc="Exporting", unit="frame")):
                export.copy_image(frame, out / "images" / frame.file_name)
                _write_frame(xml, number, frame, export.labels(frame), export.label_map)
        xml.endDocument()


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a file, or of ``annotations.xml`` in a folder; masks are painted in their z-order."""
    path = path if path.is_file() else path / "annotations.xml"
    with reading(path):
        for _, element in ElementTree.iterparse(path):
            if element.tag == "image":
                yield Returned(frame_name(element.attrib["name"]), partial(_decode, path, element, label_map))
                element.clear()


@contextmanager
def _element(xml: XMLGenerator, tag: str, attributes: dict[str, str] | None = None) -> Iterator[None]:
    """Write an element around what the block writes, on a line of its own."""
    xml.startElement(tag, AttributesImpl(attributes or {}))
    yield
    xml.endElement(tag)
    xml.ignorableWhitespace("\n")


def _write_text(xml: XMLGenerator, tag: str, text: str) -> None:
    with _element(xml, tag):
        xml.characters(text)


def _write_meta(xml: XMLGenerator, labels: list[dict[str, str]], frames: int) -> None:
    with _element(xml, "meta"), _element(xml, "task"):
        _write_text(xml, "size", str(frames))
        _write_text(xml, "mode", "annotation")
        with _element(xml, "labels"):
            for label in labels:
                with _element(xml, "label"):
                    for tag, text in label.items():
                        _write_text(xml, tag, text)


def _write_frame(xml: XMLGenerator, number: int, frame: RunFrame, labels: np.ndarray, label_map: LabelMap) -> None:
    height, width = labels.shape
    image = {"id": str(number), "name": frame.file_name, "width": str(width), "height": str(height)}
    with _element(xml, "image", image):
        for index in np.unique(labels[labels != IGNORE_INDEX]).tolist():
            mask = {"label": label_map.names[index], "source": "auto", "occluded": "0", "z_order": "0"}
            with _element(xml, "mask", mask | _encode(labels == index)):
                pass


def _encode(mask: np.ndarray) -> dict[str, str]:
    """Return the attributes of a mask (H, W) bool: its bounding box, and the runs in the box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    numbers = {"left": columns[0], "top": rows[0], "width": box.shape[1], "height": box.shape[0]}
    return {"rle": ", ".join(map(str, encode_runs(box).tolist()))} | {key: str(n) for key, n in numbers.items()}


def _decode(path: Path, image: ElementTree.Element, label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    with reading(path):
        check_size((int(image.attrib["height"]), int(image.attrib["width"])), size)
        if others := sorted({shape.tag for shape in image} - {"mask", "tag"}):
            raise DataError(
                f"it holds shapes that are no masks ({', '.join(others)}), which do not label each pixel; draw "
                "masks, or export 'Segmentation mask 1.1' from CVAT and import it as voc"
            )
        for mask in sorted(image.iter("mask"), key=lambda mask: int(mask.get("z_order", 0))):
            _paint(labels, mask, class_index(label_map, mask.attrib["label"]))
    return labels


def _paint(labels: np.ndarray, mask: ElementTree.Element, index: int) -> None:
    left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
    if min(left, top, width, height) < 0 or left + width > labels.shape[1] or top + height > labels.shape[0]:
        raise DataError(f"a mask of {width}×{height} pixels at ({left}, {top}) lies outside of the frame")
    runs = np.array(mask.attrib["rle"].split(","), np.int64)
    labels[top : top + height, left : left + width][decode_runs(runs, height, width)] = index
