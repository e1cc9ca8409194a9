"""DAVIS 2016 at 480p: ``JPEGImages/480p/<sequence>``, ``Annotations/480p/<sequence>``, ``ImageSets/480p/<split>.txt``.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016; from
https://davischallenge.org. Masks have two classes: background is 0 and the object 255 in the files; 255 is read, and
written, as 1.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.errors import DataError
from wrp.io.opening import read_text
from wrp.structures import Frame, LabelMap

RESOLUTION = "480p"

LABEL_MAP = LabelMap(
    ids=(0, 1),
    names=("background", "object"),
    colors=((0, 0, 0), (236, 95, 103)),
    ignore=(),
    aliases=((255, 1),),
)


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "JPEGImages" / RESOLUTION).is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the sequences of a split, or all there are.

    Raises:
        DataError: If a folder or the split's list is missing.
    """
    folder = root / "JPEGImages" / RESOLUTION
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    names = sorted(sequence.name for sequence in folder.iterdir() if sequence.is_dir())
    if split is not None:
        listed = listed_sequences(root / "ImageSets" / RESOLUTION / f"{split}.txt")
        names = [name for name in names if name in listed]
    clips = []
    for name in names:
        labels = root / "Annotations" / RESOLUTION / name
        clips.append(make_clip(name, (Frame(i.stem, i, label_beside(labels, i)) for i in list_images(folder / name))))
    if not clips:
        raise DataError(f"{folder} holds no sequences" + (f" of split {split!r}" if split else ""))
    return ClipIndex(root, "davis", LABEL_MAP, tuple(clips), binary=True)


def listed_sequences(path: Path) -> set[str]:
    """Return the sequences in a split list: its lines are names, or such as ``/JPEGImages/480p/bear/00000.jpg …``.

    Raises:
        DataError: If there is no such list, or it cannot be read.
    """
    if not path.is_file():
        raise DataError(f"there is no split list {path}; leave the split out to take every sequence")
    lines = [line.strip().replace("\\", "/") for line in read_text(path).splitlines()]
    return {Path(line.split()[0]).parent.name if "/" in line else line for line in lines if line}
