"""NYU Depth V2: frames ``raw/<scene>/r-<time>-<id>.{ppm,jpg,png}``, labels ``labels40/<scene>/r-<time>-<id>.png``.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012; from
https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html. The labels come in one file for MATLAB, which names the raw
frame of each; ``experiments/nyuv2/convert.py`` writes them in this layout, with the 40 classes of Gupta et al., CVPR
2013, and the lists ``train.txt`` and ``test.txt`` of the 795 and 654 labelled frames. A clip is a scene.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.errors import DataError
from wrp.io.opening import read_text
from wrp.structures import Frame, LabelMap

NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop",
)  # fmt: skip

# Colours that differ from one another, as no colours are official: steps of 75, 130 and 195 around the byte.
_COLORS = tuple((75 * i % 256, 130 * i % 256, 195 * i % 256) for i in range(1, 41))

LABEL_MAP = LabelMap(tuple(range(1, 41)), NAMES, _COLORS, ignore=(0, 255))


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "labels40").is_dir() and (root / "raw").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the scenes; with a split, labels that its list does not name are left out.

    Raises:
        DataError: If a folder or the split's list is missing.
    """
    listed = None
    if split is not None:
        path = root / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"there is no split list {path}, of lines <scene>/<frame>; leave the split out to take all")
        listed = set(read_text(path).split())
    clips = []
    for scene in sorted(path for path in (root / "raw").iterdir() if path.is_dir()):
        # Names begin with the time, so their order is that of the video.
        frames = [Frame(i.stem, i, _label(root, scene.name, i, listed)) for i in list_images(scene)]
        if frames and (listed is None or any(frame.label for frame in frames)):
            clips.append(make_clip(scene.name, frames))
    if not clips:
        raise DataError(f"{root / 'raw'} holds no frames" + (f" of split {split!r}" if split else ""))
    return ClipIndex(root, "nyuv2", LABEL_MAP, tuple(clips))


def _label(root: Path, scene: str, image: Path, listed: set[str] | None) -> Path | None:
    wanted = listed is None or f"{scene}/{image.stem}" in listed
    return label_beside(root / "labels40" / scene, image) if wanted else None
