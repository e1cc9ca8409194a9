"""A tiny run of `wrp autolabel`, made by hand, to export and import; and files as other programs write them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from tests.clips import LABEL_MAP, make_folder, make_video, picture, save
from wrp.cli.main import main
from wrp.io.label_map import write_label_map
from wrp.io.outputs import RUN, claim
from wrp.io.writing import write_label
from wrp.runs.config import Settings
from wrp.runs.record import claim_folder
from wrp.structures import LabelMap

CLASSES = LabelMap(
    ids=(0, 7, 3, 200),
    names=('Fuß & "Rad" <weg>', "sky: high", "汽车", "road"),
    colors=((128, 64, 128), (70, 130, 180), (0, 0, 142), (1, 2, 3)),
)
# One class is black, as the background of masks, so that black cannot be what has no class.
MASKS = LabelMap(ids=(0, 1), names=("background", "object"), colors=((0, 0, 0), (236, 95, 103)))

SIZES = {"walk": (7, 5), "ein Gang": (6, 11)}


def make_run(
    folder: Path,
    label_map: LabelMap = CLASSES,
    count: int = 3,
    sizes: dict[str, tuple[int, int]] = SIZES,
    stems: Sequence[str] = (),
) -> Path:
    """What autolabel leaves: the data set in ``root``, of which the first frame has a label, and the run in ``run``."""
    stems = stems or [f"{i:05d}" for i in range(count)]
    root, run = folder / "root", claim(folder / "run", RUN)
    root.mkdir(parents=True)
    claim_folder(Settings(root=str(root), out=str(run), methods=["motion"]), root, {}, {})
    random = np.random.default_rng(0)
    lines = []
    for clip, (height, width) in sizes.items():
        for i, stem in enumerate(stems):
            name = f"{clip}/{stem}.png"
            save(root / "frames" / name, picture(i, height, width))
            labels = random.integers(0, label_map.num_classes + 1, (height, width)).astype(np.uint8)
            labels[labels == label_map.num_classes] = 255
            write_label(run / "labels" / name, labels, label_map)
            confidence = random.integers(1, 256, (height, width)) * (labels < 255)
            save(run / "confidence" / name, confidence.astype(np.uint8))
            entry = {"clip": clip, "frame": stem, "index": i, "method": "motion", "keyframes": [0], "distance": i}
            lines.append(json.dumps(entry | {"schema": 2, "mean_confidence": 0.5, "label": f"labels/{name}"}))
        (root / "labels" / clip).mkdir(parents=True)
        shutil.copy(run / "labels" / clip / f"{stems[0]}.png", root / "labels" / clip)
    write_label_map(label_map, root / "classes.yaml")
    (run / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def unlabelled(folder: Path) -> Path:
    """A copy of the data set without labels."""
    other = shutil.copytree(folder / "root", folder / "other")
    shutil.rmtree(other / "labels")
    return other


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def everything(folder: Path) -> Path:
    path = folder / "all.txt"
    names = sorted(p.relative_to(folder / "run/labels").with_suffix("") for p in folder.glob("run/labels/*/*.png"))
    path.write_text("\n".join(name.as_posix() for name in names), encoding="utf-8")
    return path


def export(folder: Path, format_name: str, *more: str) -> int:
    return main(["export", str(folder / "run"), "--format", format_name, "--out", str(folder / "out"), *more])


def clips_to_label(root: Path, clips: dict[str, int], video: bool = False) -> Path:
    """A data set without labels, of the classes of `LABEL_MAP`: road, sky and car, with the ids 0, 3 and 7."""
    root.mkdir(parents=True, exist_ok=True)
    make_folder(root, {} if video else clips, labelled=())
    for name, count in clips.items() if video else ():
        make_video(root / "frames" / f"{name}.mp4", [picture(i) for i in range(count)])
    return root


def cvat_shape(labels: np.ndarray, index: int, more: str = "") -> str:
    """A mask of CVAT, its box the whole frame."""
    pixels = (labels == index).ravel()
    runs = [0, *(np.flatnonzero(np.diff(pixels.astype(int), prepend=0)).tolist()), pixels.size]
    lengths = ", ".join(map(str, np.diff(runs)))
    height, width = labels.shape
    return f'<mask {more} rle="{lengths}" left="0" top="0" width="{width}" height="{height}" z_order="0"></mask>'


def cvat_images(path: Path, images: Iterable[tuple[str, np.ndarray | None]]) -> Path:
    """A file as CVAT for images: names with their class indices, or None without masks."""
    text = ""
    for number, (name, labels) in enumerate(images):
        masks = [
            cvat_shape(labels, i, f'label="{LABEL_MAP.names[i]}"')
            for i in (np.unique(labels[labels < 255]).tolist() if labels is not None else [])
        ]
        text += f'<image id="{number}" name={quoteattr(name)} width="40" height="24">{"".join(masks)}</image>\n'
    return cvat_file(path, text)


def cvat_file(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotations><version>1.1</version>{content}</annotations>", encoding="utf-8")
    return path


def voc_labels(folder: Path, labels: dict[str, np.ndarray], listed: str | None = None) -> Path:
    """A folder as VOC: pictures of colours by their names, and a list of the classes of `LABEL_MAP`."""
    rows = zip(LABEL_MAP.names, LABEL_MAP.colors, strict=True)
    lines = ["background:0,0,0::", *(f"{name}:{','.join(map(str, color))}::" for name, color in rows)]
    for name, colors in labels.items():
        save(folder / "SegmentationClass" / name, colors)
    (folder / "labelmap.txt").write_text("\n".join(lines) if listed is None else listed, encoding="utf-8")
    return folder


def coco_file(path: Path, images: dict[int, str], labels: dict[int, np.ndarray]) -> Path:
    """A file as COCO: images and class indices by the ids of the images."""
    annotations = []
    for number, values in labels.items():
        for index in np.unique(values[values < 255]).tolist():
            pixels = (values == index).T.ravel().astype(int)  # by columns
            runs = np.diff([0, *np.flatnonzero(np.diff(pixels, prepend=0)).tolist(), pixels.size]).tolist()
            segmentation = {"size": list(values.shape), "counts": runs}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": index + 1})
            annotations[-1]["segmentation"] = segmentation
    content = {
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(LABEL_MAP.names)],
        "annotations": annotations,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def some_labels(number: int) -> np.ndarray:
    """Class indices (24, 40) of a frame; some pixels are unlabelled."""
    labels = np.zeros((24, 40), np.uint8)
    labels[:5] = 1
    labels[10:18, 4 + number : 12 + number] = 2
    labels[20:, :3] = 255
    return labels
