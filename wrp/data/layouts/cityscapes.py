"""Cityscapes: ``leftImg8bit_sequence/<split>/<city>/*_leftImg8bit.png`` and ``gtFine/<split>/<city>/*_labelIds.png``.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016; from
https://www.cityscapes-dataset.com (packages leftImg8bit_sequence_trainvaltest and gtFine_trainvaltest). A clip is the
snippet of 30 frames in which frame number n has the label: n - 19 … n + 10. Ids are those of the label files, of which
19 are classes.
"""

from __future__ import annotations

import re
from pathlib import Path

from wrp.data.index import ClipIndex, list_images, make_clip
from wrp.errors import DataError
from wrp.structures import Clip, Frame, LabelMap

SPLITS = ("train", "val", "test")
BEFORE, BEHIND = 19, 10

CLASSES = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)  # fmt: skip

_IDS, _NAMES, _COLORS = zip(*CLASSES, strict=True)

LABEL_MAP = LabelMap(_IDS, _NAMES, _COLORS, ignore=tuple(i for i in range(35) if i not in _IDS) + (255,))

_NAME = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<number>\d{6})_")


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "leftImg8bit_sequence").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the snippets of a split (default ``val``); for the others, labelled frames of ``train`` are further images.

    Raises:
        DataError: If there is no such split, a folder is missing, or a name is not that of Cityscapes.
    """
    split = split or "val"
    if split not in SPLITS:
        raise DataError(f"{root}: Cityscapes has the splits {', '.join(SPLITS)}, got {split!r}")
    clips = _snippets(root, split)
    images: list[Frame] = []
    if split != "train" and (root / "leftImg8bit_sequence" / "train").is_dir():
        images = [clip.frames[i] for clip in _snippets(root, "train") for i in clip.keyframes]
    return ClipIndex(root, "cityscapes", LABEL_MAP, tuple(clips), tuple(images))


def _snippets(root: Path, split: str) -> list[Clip]:
    frames: dict[tuple[str, str], dict[int, Path]] = {}
    folder = root / "leftImg8bit_sequence" / split
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    for city in sorted(path for path in folder.iterdir() if path.is_dir()):
        for image in list_images(city):
            name, sequence, number = _parts(image)
            frames.setdefault((name, sequence), {})[number] = image
    clips: list[Clip] = []
    for (city_name, sequence), numbers in frames.items():
        labels = {}
        for path in sorted((root / "gtFine" / split / city_name).glob(f"{city_name}_{sequence}_*_gtFine_labelIds.png")):
            labels[_parts(path)[2]] = path
        # Without labels (the test split's are withheld), snippets are separated by their length alone.
        length, first = BEFORE + 1 + BEHIND, min(numbers)
        labelled = sorted(labels) or [n for n in sorted(numbers) if (n - first) % length == BEFORE]
        for number in labelled:
            around = range(number - BEFORE, number + BEHIND + 1)
            snippet = [_frame(numbers[n], labels.get(n) if n == number else None) for n in around if n in numbers]
            if snippet:
                clips.append(make_clip(f"{city_name}_{sequence}_{number:06d}", snippet))
    if not clips:
        raise DataError(f"{folder} holds no snippets; expected <city>/<city>_000000_000019_leftImg8bit.png and others")
    return clips


def _frame(image: Path, label: Path | None) -> Frame:
    return Frame(image.stem.removesuffix("_leftImg8bit"), image, label)


def _parts(path: Path) -> tuple[str, str, int]:
    match = _NAME.match(path.name)
    if match is None:
        raise DataError(f"{path} is no file of Cityscapes: expected a name such as ulm_000000_000019_leftImg8bit.png")
    return match["city"], match["sequence"], int(match["number"])
