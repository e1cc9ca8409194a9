"""KITTI semantics: ``training/semantic/000000_10.png`` inside its multi-view clip ``training/image_2/000000_00.png`` ….

Alhaija et al., "Augmented Reality Meets Computer Vision", IJCV 2018; from https://www.cvlibs.net/datasets/kitti
(data_semantics and data_scene_flow_multiview, unpacked over one another). Each of the 200 labelled frames is number 10
of 21; ids are those of Cityscapes.
"""

from __future__ import annotations

import re
from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.data.layouts.cityscapes import LABEL_MAP
from wrp.errors import DataError
from wrp.structures import Frame

SPLITS = ("training", "testing")

_NAME = re.compile(r"(?P<scene>\d{6})_(?P<number>\d{2})$")


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return any((root / split / "image_2").is_dir() for split in SPLITS)


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the clips of a split (default ``training``); ``testing`` has no labels.

    Raises:
        DataError: If a folder is missing or a name is not KITTI's.
    """
    split = split or "training"
    if split not in SPLITS:
        raise DataError(f"{root}: KITTI has the splits {', '.join(SPLITS)}, got {split!r}")
    scenes: dict[str, list[Frame]] = {}
    for image in list_images(root / split / "image_2"):
        match = _NAME.match(image.stem)
        if match is None:
            raise DataError(f"{image} is no frame of KITTI: expected a name such as 000000_10.png")
        frame = Frame(image.stem, image, label_beside(root / split / "semantic", image))
        scenes.setdefault(match["scene"], []).append(frame)
    if not scenes:
        raise DataError(f"{root / split / 'image_2'} holds no images")
    return ClipIndex(root, "kitti", LABEL_MAP, tuple(make_clip(name, frames) for name, frames in scenes.items()))
