"""Tiny data sets in the layouts of the paper's, of the real shape."""

from __future__ import annotations

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
