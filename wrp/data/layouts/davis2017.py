"""DAVIS 2017 at 480p: as DAVIS 2016, but every object is a class: ``ImageSets/2017/<split>.txt`` names the sequences.

Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", arXiv 1704.00675; from
https://davischallenge.org. Objects are numbered anew in each sequence, so object 1 of one is not object 1 of another:
train networks on one sequence at a time, or propagate by motion alone.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.data.layouts.davis import RESOLUTION
from wrp.errors import DataError
from wrp.io.label_map import read_ids
from wrp.io.opening import read_text
from wrp.structures import Frame, LabelMap

# The first colours of the data set's own palette.
COLORS = (
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128),
    (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128),
)  # fmt: skip


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "JPEGImages" / RESOLUTION).is_dir() and (root / "ImageSets" / "2017").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the sequences of a split, or all there are.

    Raises:
        DataError: If a folder or the split's list is missing, or a mask is damaged.
    """
    folder = root / "JPEGImages" / RESOLUTION
    names = sorted(sequence.name for sequence in folder.iterdir() if sequence.is_dir())
    if split is not None:
        path = root / "ImageSets" / "2017" / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"there is no split list {path}; leave the split out to take every sequence")
        names = [name for name in read_text(path).split() if name in names]
    clips, objects = [], 0
    for name in names:
        labels = root / "Annotations" / RESOLUTION / name
        clip = make_clip(name, (Frame(i.stem, i, label_beside(labels, i)) for i in list_images(folder / name)))
        if clip.keyframes:  # the first mask shows all objects of its sequence
            objects = max(objects, _highest(clip.frames[clip.keyframes[0]]))
        clips.append(clip)
    if not clips:
        raise DataError(f"{folder} holds no sequences" + (f" of split {split!r}" if split else ""))
    if objects >= len(COLORS):
        raise DataError(f"{root}: a mask holds object {objects}; is it grey from 0 to 255, as in DAVIS 2016?")
    named = ("background", *(f"object {i}" for i in range(1, objects + 1)))
    label_map = LabelMap(tuple(range(objects + 1)), named, COLORS[: objects + 1])
    return ClipIndex(root, "davis2017", label_map, tuple(clips))


def _highest(frame: Frame) -> int:
    assert frame.label is not None
    values, _ = read_ids(frame.label)
    return int(values[values != 255].max(initial=0))
