"""CVAT for images 1.1: ``annotations.xml`` with a mask for each class in a frame; ``images/``; ``labels.json``.

CVAT for video 1.1, which has tracks instead of images, is read, too.

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
from wrp.exchange.base import (
    Export,
    Returned,
    RunFrame,
    check_size,
    class_index,
    decode_runs,
    encode_runs,
    reading,
)
from wrp.exchange.names import frame_name
from wrp.io.progress import progress
from wrp.io.writing import write_json
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("annotations.xml",)

IN_IMAGES, IN_TRACKS = ("mask",), ("mask", "polygon", "box")
"""Shapes that are read of images and of tracks: those of tracks, CVAT itself fills when it exports masks."""

FAR = 1e6
"""Coordinates in pixels from here on are damage."""


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
    """Read the labels of a file, or of ``annotations.xml`` in a folder; shapes are painted in their z-order.

    The file tells whether it is "CVAT for images" or "CVAT for video". Of the latter, a frame has the shapes that are
    given for it: keyframes, and what CVAT has put between them.
    """
    path = path if path.is_file() else path / "annotations.xml"
    tracks, sizes = list[ElementTree.Element](), list[dict[str, str]]()
    with reading(path):
        for _, element in ElementTree.iterparse(path):
            if element.tag == "image":
                yield Returned(
                    frame_name(element.attrib["name"]), partial(_decode, path, element, label_map, IN_IMAGES)
                )
                element.clear()
            elif element.tag == "track":
                tracks.append(element)
            elif element.tag == "original_size":
                sizes.append({key: str(element.findtext(key)) for key in ("width", "height")})
        if len({track.get("task_id") for track in tracks}) > 1:
            raise DataError(
                f"{path} holds the tracks of several tasks, whose frames all count from 0; export each task"
            )
        frames = _frames_of(tracks, sizes[0] if len(sizes) == 1 else {})
    for number, frame in frames.items():
        yield Returned(f"frame_{number:06d}", partial(_decode, path, frame, label_map, IN_TRACKS))


def _frames_of(tracks: list[ElementTree.Element], size: dict[str, str]) -> dict[int, ElementTree.Element]:
    """Return the frames of a video by their numbers, with their shapes, as "CVAT for images" has them."""
    frames: dict[int, ElementTree.Element] = {}
    for track in tracks:
        for shape in track:
            if "frame" in shape.attrib and shape.get("outside") != "1":  # there, the track has ended
                shape.set("label", track.attrib["label"])
                frames.setdefault(int(shape.attrib["frame"]), ElementTree.Element("image", size)).append(shape)
    return dict(sorted(frames.items()))


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


def _decode(
    path: Path, image: ElementTree.Element, label_map: LabelMap, known: tuple[str, ...], size: tuple[int, int]
) -> np.ndarray:
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    with reading(path):
        if known == IN_IMAGES or image.attrib:  # tracks of several videos do not say whose size is whose
            check_size((int(image.attrib["height"]), int(image.attrib["width"])), size)
        if others := sorted({shape.tag for shape in image} - {*known, "tag"}):
            raise DataError(
                f"it holds shapes that are no masks ({', '.join(others)}), which do not label each pixel; draw "
                "masks, or export 'Segmentation mask 1.1' from CVAT and import it as voc"
            )
        shapes = [shape for shape in image if shape.tag in known]
        for shape in sorted(shapes, key=lambda shape: int(shape.get("z_order", 0))):
            index = class_index(label_map, shape.attrib["label"])
            if not any(shape.get(key, "").strip() for key in ("rle", "points", "xtl")):
                raise DataError(
                    f"a {shape.tag} of {shape.attrib['label']!r} has no pixels; draw it again, or delete it"
                )
            if shape.tag == "mask":
                _paint(labels, shape, index)
            else:
                labels[fill(_corners(shape), size)] = index
    return labels


def _corners(shape: ElementTree.Element) -> np.ndarray:
    """Return the corners (N, 2) of a polygon or of a box, which may be rotated, as x and y in pixels."""
    if shape.tag == "polygon":
        return np.array([point.split(",") for point in shape.attrib["points"].split(";")], np.float64)
    numbers = [float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")] + [float(shape.get("rotation", 0))]
    if not all(abs(number) < FAR for number in numbers):
        raise ValueError(f"{numbers} is no box near the frame")
    left, top, right, bottom, degrees = numbers
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    centre, angle = corners.mean(0), np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return (corners - centre) @ np.array([(cos, sin), (-sin, cos)]) + centre


def fill(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres lie in a polygon, by the even-odd rule.

    OpenCV and Pillow fill the pixels on the border as well, so that polygons side by side would overlap.

    Args:
        corners: Their x and y (N, 2) in pixels; 0 is the left, or upper, edge of the first pixel.
        size: H and W.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: If the corners are not finite, or are far outside.

    Example:
        >>> fill(np.array([(1.0, 0.0), (3.0, 0.0), (3.0, 2.0), (1.0, 2.0)]), (3, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if corners.ndim != 2 or corners.shape[1] != 2 or not (np.abs(corners) < FAR).all():
        raise ValueError(f"{corners.shape} coordinates are no corners near the frame")
    (x, y), (next_x, next_y) = corners.T, np.roll(corners, -1, axis=0).T
    centres = np.arange(size[0])[:, None] + 0.5
    row, edge = np.nonzero((y <= centres) != (next_y <= centres))
    crossing = x[edge] + (row + 0.5 - y[edge]) * (next_x - x)[edge] / (next_y - y)[edge]
    crossed = np.zeros((size[0], size[1] + 1), np.int32)  # edges, at the first pixel whose centre lies behind them
    np.add.at(crossed, (row, np.clip(np.ceil(crossing - 0.5), 0, size[1]).astype(np.int64)), 1)
    return crossed[:, :-1].cumsum(axis=1) % 2 == 1


def _paint(labels: np.ndarray, mask: ElementTree.Element, index: int) -> None:
    left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
    if min(left, top, width, height) < 0 or left + width > labels.shape[1] or top + height > labels.shape[0]:
        raise DataError(f"a mask of {width}×{height} pixels at ({left}, {top}) lies outside of the frame")
    runs = np.array(mask.attrib["rle"].split(","), np.int64)
    labels[top : top + height, left : left + width][decode_runs(runs, height, width)] = index
