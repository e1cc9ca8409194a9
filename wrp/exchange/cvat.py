"""CVAT for images 1.1: ``annotations.xml`` with a mask for each class in a frame; ``images/``; ``labels.json``.

CVAT for video 1.1, which has tracks instead of images, is read, too; :mod:`wrp.exchange.cvat_video` writes it.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat. A mask is its bounding box and the lengths of its
runs, row by row in the box, so it is exact; CVAT's other formats turn masks into polygons, or lose their order.
``labels.json`` is for the raw view of CVAT's constructor of labels. Unlabelled pixels belong to no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from wrp.errors import DataError
from wrp.exchange.base import (
    Export,
    Returned,
    RunFrame,
    bounding_box,
    check_size,
    class_index,
    decode_runs,
    encode_runs,
    reading,
)
from wrp.exchange.names import frame_name
from wrp.io.grouping import Groups, grouping
from wrp.io.writing import write_json
from wrp.structures import IGNORE_INDEX, LabelMap

HOLDS = ("annotations.xml",)

IN_IMAGES, IN_TRACKS = ("mask",), ("mask", "polygon", "box")
"""Shapes that are read of images and of tracks: those of tracks, CVAT itself fills when it exports masks."""

FAR = 1e6
"""Coordinates in pixels from here on are damage."""


def write(export: Export, out: Path) -> None:
    """Write a run's labels frame by frame, so that memory does not grow with their number."""
    labels = label_entries(export.label_map)
    write_json(out / "labels.json", [label | {"attributes": []} for label in labels])

    def describe(frame: RunFrame) -> dict[str, Any]:
        export.copy_image(frame, out / "images" / frame.file_name)
        return encode_masks(export.labels(frame))

    with (out / "annotations.xml").open("w", encoding="utf-8") as file:
        xml = XMLGenerator(file, "utf-8")
        xml.startDocument()
        with element(xml, "annotations"):
            write_element(xml, "version", "1.1")
            _write_meta(xml, labels, len(export.frames))
            for number, (frame, found) in enumerate(export.each(out, describe)):
                _write_frame(xml, number, frame, export.label_map, **found)
        xml.endDocument()


def read(path: Path, label_map: LabelMap) -> Iterator[Returned]:
    """Read the labels of a file, or of ``annotations.xml`` in a folder; shapes are painted in their z-order.

    The file tells whether it is "CVAT for images" or "CVAT for video". Of the latter, a frame has the shapes that are
    given for it: keyframes, and what CVAT has put between them.
    """
    path = path if path.is_file() else path / "annotations.xml"
    sizes, tasks = list[dict[str, str]](), set[str | None]()
    opened: list[ElementTree.Element] = []  # the elements around the one that is read
    with grouping() as shapes, reading(path):
        for event, element in ElementTree.iterparse(path, ("start", "end")):
            if event == "start":
                opened.append(element)
                continue
            opened.pop()
            above = opened[-1] if opened else ElementTree.Element("")
            if element.tag == "image":
                name = frame_name(element.attrib["name"])
                yield Returned(name, partial(_decode, path, element, label_map, IN_IMAGES))
                above.remove(element)
            elif element.tag == "track":
                tasks.add(element.get("task_id"))
                above.remove(element)
            elif above.tag == "track":
                _note_shape(element, above, shapes)
                above.remove(element)
            elif element.tag == "original_size":
                sizes.append({key: str(element.findtext(key)) for key in ("width", "height")})
        if len(tasks) > 1:
            raise DataError(
                f"{path} holds the tracks of several tasks, whose frames all count from 0; export each task"
            )
        size = sizes[0] if len(sizes) == 1 else {}
        for number in sorted(shapes):
            decode = partial(_decode_frame, path, partial(shapes.items, number), size, label_map)
            yield Returned(f"frame_{number:06d}", decode)


def _note_shape(shape: ElementTree.Element, track: ElementTree.Element, shapes: Groups[int]) -> None:
    """Keep a shape of a track by its frame; the tracks of a long video do not fit into memory."""
    if "frame" in shape.attrib and shape.get("outside") != "1":  # there, the track has ended
        shapes.add(int(shape.attrib["frame"]), [shape.tag, shape.attrib | {"label": track.attrib["label"]}])


def _decode_frame(
    path: Path,
    shapes: Callable[[], list[tuple[str, dict[str, str]]]],
    task_size: dict[str, str],
    label_map: LabelMap,
    size: tuple[int, int],
) -> np.ndarray:
    """Decode a frame of a video, with its shapes as "CVAT for images" has them."""
    frame = ElementTree.Element("image", task_size)
    with reading(path):
        for tag, attributes in shapes():
            ElementTree.SubElement(frame, tag, attributes)
    return _decode(path, frame, label_map, IN_TRACKS, size)


def label_entries(label_map: LabelMap) -> list[dict[str, str]]:
    """Return the classes as CVAT's labels.

    Example:
        >>> label_entries(LabelMap((0,), ("road",), ((128, 64, 128),)))
        [{'name': 'road', 'color': '#804080', 'type': 'mask'}]
    """
    return [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color), "type": "mask"}
        for name, color in zip(label_map.names, label_map.colors, strict=True)
    ]


@contextmanager
def element(xml: XMLGenerator, tag: str, attributes: dict[str, str] | None = None) -> Iterator[None]:
    """Write an element around what the block writes, on a line of its own.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> with element(XMLGenerator(file), "image", {"id": "0"}):
        ...     pass
        >>> file.getvalue().strip()
        '<image id="0"></image>'
    """
    xml.startElement(tag, AttributesImpl(attributes or {}))
    yield
    xml.endElement(tag)
    xml.ignorableWhitespace("\n")


def write_element(xml: XMLGenerator, tag: str, text: str) -> None:
    """Write an element that holds a text.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> write_element(XMLGenerator(file), "size", "3")
        >>> file.getvalue().strip()
        '<size>3</size>'
    """
    with element(xml, tag):
        xml.characters(text)


def _write_meta(xml: XMLGenerator, labels: list[dict[str, str]], frames: int) -> None:
    with element(xml, "meta"), element(xml, "task"):
        write_element(xml, "size", str(frames))
        write_element(xml, "mode", "annotation")
        with element(xml, "labels"):
            for label in labels:
                with element(xml, "label"):
                    for tag, text in label.items():
                        write_element(xml, tag, text)


def _write_frame(
    xml: XMLGenerator,
    number: int,
    frame: RunFrame,
    label_map: LabelMap,
    size: tuple[int, int],
    masks: list[tuple[int, dict[str, str]]],
) -> None:
    height, width = size
    image = {"id": str(number), "name": frame.file_name, "width": str(width), "height": str(height)}
    with element(xml, "image", image):
        for index, place in masks:
            mask = {"label": label_map.names[index], "source": "auto", "occluded": "0", "z_order": "0"}
            with element(xml, "mask", mask | place):
                pass


def encode_masks(labels: np.ndarray) -> dict[str, Any]:
    """Return the size of class indices (H, W) uint8, and each index that occurs with :func:`encode_mask` of it.

    Example:
        >>> encode_masks(np.array([[255, 1]], np.uint8))
        {'size': (1, 2), 'masks': [(1, {'rle': '0, 1', 'left': '1', 'top': '0', 'width': '1', 'height': '1'})]}
    """
    indices = np.unique(labels[labels != IGNORE_INDEX]).tolist()
    return {"size": labels.shape, "masks": [(index, encode_mask(labels == index)) for index in indices]}


def encode_mask(mask: np.ndarray) -> dict[str, str]:
    """Return the attributes of a mask (H, W) bool: its bounding box, and the runs in the box.

    Example:
        >>> encode_mask(np.array([[False, True], [False, True]]))
        {'rle': '0, 2', 'left': '1', 'top': '0', 'width': '1', 'height': '2'}
    """
    left, top, width, height = bounding_box(mask)
    runs = encode_runs(mask[top : top + height, left : left + width])
    numbers = {"left": left, "top": top, "width": width, "height": height}
    return {"rle": ", ".join(map(str, runs.tolist()))} | {key: str(n) for key, n in numbers.items()}


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
