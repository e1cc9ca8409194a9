"""VSPW: ``data/<video>/origin/*.jpg``, ``data/<video>/mask/*.png``, lists ``train.txt``, ``val.txt``, ``test.txt``.

Miao et al., "VSPW: A Large-scale Dataset for Video Scene Parsing in the Wild", CVPR 2021; from
https://www.vspwdataset.com (whose terms are to be read there), in the original size or as VSPW_480p, which lie alike.
Of the values of the masks, 1 … 124 are classes; 0, "others", and 255 are not scored. The names of the classes are those
of ``label_num_dic_final.json`` if it is there. Test videos have no masks. Tried on trees of the real shape, not on the
data.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.data.layouts.davis2017 import COLORS
from wrp.errors import DataError
from wrp.io.listing import list_folders
from wrp.io.opening import read_json, read_text
from wrp.structures import Frame, LabelMap

NUM_CLASSES = 124
NAMES = "label_num_dic_final.json"


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "data").is_dir() and any((video / "origin").is_dir() for video in (root / "data").iterdir())


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the videos of a split, or all that have masks.

    Raises:
        DataError: If the split's list is missing, none of its videos is there, or the names of the classes cannot be
            read.
    """
    videos, notes = {video.name: video for video in list_folders(root / "data")}, list[str]()
    if split is not None:
        path = root / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"there is no split list {path}, of names of videos; leave the split out to take all")
        listed = {name.rstrip("/").rpartition("/")[2] for name in read_text(path).split()}
        if lost := sorted(listed - set(videos)):
            notes = [f"{path} names {len(lost)} videos that are not in {root / 'data'}, the first is {lost[0]}"]
        videos = {name: video for name, video in videos.items() if name in listed}
    clips = []
    for name, video in videos.items():
        images = list_images(video / "origin") if (video / "origin").is_dir() else []
        if images:
            clips.append(make_clip(name, (Frame(i.stem, i, label_beside(video / "mask", i)) for i in images)))
    if split is None and any(clip.keyframes for clip in clips):
        bare = [clip.name for clip in clips if not clip.keyframes]
        notes += [f"{len(bare)} videos without masks are left out, the first is {bare[0]}"] if bare else []
        clips = [clip for clip in clips if clip.keyframes]
    if not clips:
        raise DataError(f"{root / 'data'} holds no frames" + (f" of split {split!r}" if split else ""))
    return ClipIndex(root, "vspw", _label_map(root / NAMES), tuple(clips), notes=tuple(notes))


def _label_map(path: Path) -> LabelMap:
    """Make the classes, with the names of label_num_dic_final.json, of lines such as ``"wall": "1"``."""
    names = {id_: f"class {id_}" for id_ in range(1, NUM_CLASSES + 1)}
    if path.is_file():
        remedy = 'expected names and numbers, as {"wall": "1"}; correct or remove it'
        try:
            given = {int(number): name for name, number in read_json(path, remedy).items()}
        except (TypeError, ValueError) as error:
            raise DataError(f"{path} does not name the classes ({error}): {remedy}") from error
        names |= {id_: name for id_, name in given.items() if id_ in names}
    colors = tuple(COLORS[id_] for id_ in names)
    return LabelMap(tuple(names), tuple(names.values()), colors, ignore=(0, 255))
