"""ApolloScape scene parsing: ``ColorImage/<record>/<camera>/*.jpg`` and ``Label/<record>/<camera>/*_bin.png``.

Huang et al., "The ApolloScape Open Dataset for Autonomous Driving and its Application", TPAMI 2019; from
http://apolloscape.auto/scene.html. ``<root>`` is one road, such as ``road02_ins``, or a folder of roads. A clip is what
one camera saw in one record; ids are those of the label files, of which 22 are classes, groups with their members.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, list_images, make_clip
from wrp.errors import DataError
from wrp.structures import Clip, Frame, LabelMap

CLASSES = (
    (17, "sky", (70, 130, 180)), (33, "car", (0, 0, 142)), (34, "motorbicycle", (0, 0, 230)),
    (35, "bicycle", (119, 11, 32)), (36, "person", (0, 128, 192)), (37, "rider", (128, 64, 128)),
    (38, "truck", (128, 0, 192)), (39, "bus", (192, 0, 64)), (40, "tricycle", (128, 128, 192)),
    (49, "road", (192, 128, 192)), (50, "sidewalk", (192, 128, 64)), (65, "traffic cone", (0, 0, 64)),
    (66, "road pile", (0, 0, 192)), (67, "fence", (64, 0, 128)), (81, "traffic light", (192, 192, 128)),
    (82, "pole", (64, 0, 192)), (83, "traffic sign", (128, 128, 64)), (84, "wall", (192, 0, 128)),
    (85, "dustbin", (64, 128, 64)), (86, "billboard", (128, 0, 64)), (97, "building", (128, 192, 0)),
    (113, "vegetation", (128, 192, 64)),
)  # fmt: skip

# A crowd of cars is written as 161 where one is 33, and so on.
GROUPS = tuple((128 + id_, id_) for id_ in range(33, 41))

_IDS, _NAMES, _COLORS = zip(*CLASSES, strict=True)
_TAKEN = {*_IDS, *(value for value, _ in GROUPS)}

LABEL_MAP = LabelMap(_IDS, _NAMES, _COLORS, ignore=tuple(i for i in range(256) if i not in _TAKEN), aliases=GROUPS)


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return bool(_roads(root))


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the records of one road or of several; this layout has no splits.

    Raises:
        DataError: If a split is given, or there are no images.
    """
    if split is not None:
        raise DataError(f"{root}: ApolloScape's layout has no splits, got split {split!r}; choose clips by name")
    clips: list[Clip] = []
    for road in _roads(root):
        for record in sorted(path for path in (road / "ColorImage").iterdir() if path.is_dir()):
            for camera in sorted(path for path in record.iterdir() if path.is_dir()):
                labels = road / "Label" / record.name / camera.name
                frames = [Frame(i.stem, i, _label(labels, i.stem)) for i in list_images(camera)]
                name = f"{record.name}_{camera.name.replace(' ', '')}"
                if frames:
                    clips.append(make_clip(name if road == root else f"{road.name}_{name}", frames))
    if not clips:
        raise DataError(f"{root} holds no images; expected ColorImage/Record001/Camera 5/*.jpg")
    return ClipIndex(root, "apolloscape", LABEL_MAP, tuple(clips))


def _roads(root: Path) -> list[Path]:
    return sorted(path for path in (root, *root.iterdir()) if (path / "ColorImage").is_dir())


def _label(folder: Path, stem: str) -> Path | None:
    path = folder / f"{stem}_bin.png"
    return path if path.is_file() else None
