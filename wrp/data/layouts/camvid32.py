"""CamVid as first published: ``701_StillsRaw_full/NAME.png``, colour pictures ``LabeledApproved_full/NAME_L.png``.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 30(2), 2009; from
http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid. Of its 32 classes, 31 are mapped to the 11 in common use
(Sturgess et al., BMVC 2009; Badrinarayanan et al., TPAMI 2017). Frames of the videos may be added to the stills under
names of the same form.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, list_images
from wrp.data.layouts import camvid
from wrp.errors import DataError
from wrp.structures import Frame, LabelMap

STILLS, LABELS = "701_StillsRaw_full", "LabeledApproved_full"

# The colours of the label files, by the class in common use; void is black.
COLORS = {
    "sky": ((128, 128, 128),),
    "building": ((128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)),
    "pole": ((192, 192, 128), (0, 0, 64)),
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    "pavement": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    "tree": ((128, 128, 0), (192, 192, 0)),
    "sign": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "fence": ((64, 64, 128),),
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    "pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    "bicyclist": ((0, 128, 192), (192, 0, 192)),
}

LABEL_MAP = LabelMap(
    ids=camvid.LABEL_MAP.ids,
    names=tuple(COLORS),
    colors=tuple(colors[0] for colors in COLORS.values()),
    ignore=camvid.LABEL_MAP.ignore,
    more_colors=tuple((color, i) for i, colors in enumerate(COLORS.values()) for color in colors[1:]),
)


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / STILLS).is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index all runs of evenly spaced frames; this layout has no splits.

    Raises:
        DataError: If a folder is missing or a name is not CamVid's.
    """
    if split is not None:
        raise DataError(f"{root}: this layout of CamVid has no splits, got split {split!r}; choose clips by name")
    frames = []
    for image in list_images(root / STILLS):
        label = root / LABELS / f"{image.stem}_L.png"
        frames.append(Frame(image.stem, image, label if label.is_file() else None))
    if not frames:
        raise DataError(f"{root / STILLS} holds no images")
    return ClipIndex(root, "camvid32", LABEL_MAP, tuple(camvid.runs(frames)))
