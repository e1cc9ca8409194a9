"""A tiny run of `wrp autolabel`, made by hand, to export and import."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.clips import picture, save
from wrp.cli.main import main
from wrp.io.folders import RUN, claim
from wrp.io.label_map import write_label_map
from wrp.io.writing import write_label
from wrp.runs.config import Settings
from wrp.runs.settings import claim_folder
from wrp.structures import LabelMap

CLASSES = LabelMap(
    ids=(0, 7, 3, 200),
    names=('Fuß & "Rad" <weg>', "sky: high", "汽车", "road"),
    colors=((128, 64, 128), (70, 130, 180), (0, 0, 142), (1, 2, 3)),
)
# One class is black, as the background of masks, so that black cannot be what has no class.
MASKS = LabelMap(ids=(0, 1), names=("background", "object"), colors=((0, 0, 0), (236, 95, 103)))

SIZES = {"walk": (7, 5), "ein Gang": (6, 11)}


def make_run(folder: Path, label_map: LabelMap = CLASSES, count: int = 3) -> Path:
    """What autolabel leaves: the data set in ``root``, of which the first frame has a label, and the run in ``run``."""
    root, run = folder / "root", claim(folder / "run", RUN)
    root.mkdir()
    claim_folder(Settings(root=str(root), out=str(run), methods=["motion"]), root, "none", {})
    random = np.random.default_rng(0)
    lines = []
    for clip, (height, width) in SIZES.items():
        for i in range(count):
            name = f"{clip}/{i:05d}.png"
            save(root / "frames" / name, picture(i, height, width))
            labels = random.integers(0, label_map.num_classes + 1, (height, width)).astype(np.uint8)
            labels[labels == label_map.num_classes] = 255
            write_label(run / "labels" / name, labels, label_map)
            confidence = random.integers(1, 256, (height, width)) * (labels < 255)
            save(run / "confidence" / name, confidence.astype(np.uint8))
            entry = {"clip": clip, "frame": f"{i:05d}", "index": i, "method": "motion", "keyframes": [0], "distance": i}
            lines.append(json.dumps(entry | {"schema": 2, "mean_confidence": 0.5, "label": f"labels/{name}"}))
        (root / "labels" / clip).mkdir(parents=True)
        shutil.copy(run / "labels" / clip / "00000.png", root / "labels" / clip / "00000.png")
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
