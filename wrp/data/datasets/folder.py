"""The package's own layout: ``frames/<clip>/<stem>.{png,jpg}``, ``labels/<clip>/<stem>.png``, ``classes.yaml``.

Frames are taken in the order of their names. Only the labelled frames need a label file.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.clips import ClipIndex, label_beside, list_images, make_clip
from wrp.data.labelmaps import read_label_map
from wrp.types import DataError, Frame


def matches(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / "frames").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the clips under ``root``; this layout has no splits.

    Raises:
        DataError: If a part of the layout is missing.
    """
    if split is not None:
        raise DataError(f"{root}: the folder layout has no splits, got split {split!r}; choose clips by name")
    label_map = read_label_map(root / "classes.yaml")
    folders = sorted(folder for folder in (root / "frames").iterdir() if folder.is_dir())
    clips = []
    for folder in folders:
        labels = root / "labels" / folder.name
        images = list_images(folder)
        frames = [Frame(image.stem, image, label_beside(labels, image)) for image in images]
        if frames:
            clips.append(make_clip(folder.name, frames))
        stems = {image.stem for image in images}
        if labels.is_dir() and (lost := [path for path in sorted(labels.glob("*.png")) if path.stem not in stems]):
            raise DataError(f"{lost[0]} is the label of no frame in {folder}; a label has the name of its frame")
    if (root / "labels").is_dir():
        known = {folder.name for folder in folders}
        for labels in sorted((root / "labels").iterdir()):
            if labels.is_dir() and labels.name not in known:
                raise DataError(f"{labels} holds labels of no clip: there is no folder {root / 'frames' / labels.name}")
    if not clips:
        raise DataError(f"{root / 'frames'} holds no clips; expected frames/<clip>/<stem>.png or .jpg")
    return ClipIndex(root, "folder", label_map, tuple(clips))
