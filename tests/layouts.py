"""Tiny data sets in the layouts of the paper's, of the real shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.clips import picture, save


def ids(*values: int) -> np.ndarray:
    """A label (24, 40) uint8 of vertical stripes."""
    stripes = np.array(values, np.uint8)[np.arange(40) * len(values) // 40]
    return np.broadcast_to(stripes, (24, 40)).copy()


def make_cityscapes(root: Path) -> Path:
    """Two snippets of one sequence, as in Hamburg, one of another, as in Ulm, and one of test without labels."""
    for split, city, sequence, first, count, labelled in (
        ("val", "hamburg", 0, 100, 60, (119, 149)),
        ("val", "ulm", 3, 0, 30, (19,)),
        ("train", "bochum", 0, 0, 30, (19,)),
        ("test", "berlin", 0, 0, 30, ()),
    ):
        for number in range(first, first + count):
            stem = f"{city}_{sequence:06d}_{number:06d}"
            save(root / "leftImg8bit_sequence" / split / city / f"{stem}_leftImg8bit.png", picture(number))
            if number in labelled:
                folder = root / "gtFine" / split / city
                save(folder / f"{stem}_gtFine_labelIds.png", ids(7, 26, 0, 33))
                save(folder / f"{stem}_gtFine_color.png", picture(0))
    return root


def make_kitti(root: Path) -> Path:
    """Two clips of 21 frames, number 10 labelled, and two frames without labels for testing."""
    for scene in range(2):
        for number in range(21):
            save(root / "training" / "image_2" / f"{scene:06d}_{number:02d}.png", picture(number))
        save(root / "training" / "semantic" / f"{scene:06d}_10.png", ids(7, 23))
        save(root / "testing" / "image_2" / f"{scene:06d}_10.png", picture(0))
    return root


def make_nyuv2(root: Path) -> Path:
    """Two scenes of four frames, one of each labelled, one of these in the training list."""
    for scene in ("bathroom_0001", "den_0002"):
        (root / "raw" / scene).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(picture(i)).save(root / "raw" / scene / f"r-{100 + i}.5-{i}.ppm")
        save(root / "labels40" / scene / "r-102.5-2.png", ids(0, 1, 40))
    (root / "train.txt").write_text("bathroom_0001/r-102.5-2\n")
    (root / "test.txt").write_text("den_0002/r-102.5-2\n")
    return root


# The palette of Pascal VOC and of DAVIS: the bits of a number, three at a time.
VOC = [sum((i >> 3 * bit + c & 1) << 7 - bit for bit in range(8)) for i in range(256) for c in range(3)]


def save_mask(path: Path, values: np.ndarray, palette: Sequence[int] = (0, 0, 0, 236, 95, 103, 249, 145, 87)) -> Path:
    """An indexed PNG of a mask (H, W) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette([*palette, *[0] * (768 - len(palette))])  # with fewer, Pillow writes fewer bits
    image.save(path)
    return path


def make_davis2017(root: Path, sequences: dict[str, Sequence[tuple[int, ...] | None]]) -> Path:
    """DAVIS 2017 at 480p: sequences of frames, each with the objects that its mask shows beside 0, or without one."""
    for name, masks in sequences.items():
        for i, objects in enumerate(masks):
            save(root / "JPEGImages" / "480p" / name / f"{i:05d}.jpg", picture(i))
            if objects is not None:
                save_mask(root / "Annotations" / "480p" / name / f"{i:05d}.png", ids(0, *objects), VOC)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("".join(f"{name}\n" for name in sequences))
    return root


def make_youtubevos(root: Path, meta: bool = True) -> Path:
    """A video of three objects with masks for every fifth frame, and one to predict, whose object 2 comes later."""
    videos = {"train": ("003234408d", (0, 5, 10), {0: (1, 3), 5: (1, 3), 10: (3,)}),
              "valid": ("00f88c4f0a", (15, 20, 25), {15: (1,), 25: (2,)})}  # fmt: skip
    for split, (video, numbers, masks) in videos.items():
        for number in numbers:
            save(root / split / "JPEGImages" / video / f"{number:05d}.jpg", picture(number))
        for number, objects in masks.items():
            save_mask(root / split / "Annotations" / video / f"{number:05d}.png", ids(0, *objects))
        if meta:
            numbered = sorted({one for objects in masks.values() for one in objects})
            objects_of = {str(one): {"category": "ape", "frames": [f"{n:05d}" for n in numbers]} for one in numbered}
            (root / split / "meta.json").write_text(json.dumps({"videos": {video: {"objects": objects_of}}}))
    for number in range(15, 26):
        save(root / "valid_all_frames" / "JPEGImages" / "00f88c4f0a" / f"{number:05d}.jpg", picture(number))
    return root


def make_vspw(root: Path) -> Path:
    """Two videos with masks of every frame, one of each split, and one to test on without."""
    for split, video, first in (("train", "0_wHszmJBqTKU", 1), ("val", "127_x2RbqYKJQGo", 9), ("test", "5_MYE", 3)):
        for number in range(first, first + 3):
            save(root / "data" / video / "origin" / f"{number:08d}.jpg", picture(number))
            if split != "test":
                save(root / "data" / video / "mask" / f"{number:08d}.png", ids(0, 1, 124, 255))
        (root / f"{split}.txt").write_text(f"{video}\n")
    return root
