"""YouTube-VOS: ``<split>/JPEGImages/<video>/*.jpg``, ``<split>/Annotations/<video>/*.png``, ``<split>/meta.json``.

Xu et al., "YouTube-VOS: A Large-Scale Video Object Segmentation Benchmark", arXiv 1809.03327; from
https://youtube-vos.org, annotations under CC BY 4.0, data for non-commercial research. Frames are every 5th of the
video, or all of them, as in the folders ``<split>_all_frames``, whose masks are taken from ``<split>`` if they have
none. ``<root>`` may be the folder of one split as well. Object n of each video is class n, and means another thing in
each, as in DAVIS 2017. In ``valid`` and ``test`` the masks show each object where it first appears and, in later
frames, no others, although they may be in view. Tried on trees of the real shape, not on the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip
from wrp.data.layouts.davis import RESOLUTION
from wrp.data.layouts.davis2017 import ids_of, object_map, objects_of, palette_of
from wrp.errors import DataError
from wrp.io.listing import list_folders
from wrp.io.opening import read_json
from wrp.structures import Clip, Frame

SPLITS = ("train", "valid", "test")
ALL_FRAMES = "_all_frames"


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return any(_has_labels(folder) for folder in _splits(root).values())


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the videos of a split (default ``train`` or, without it, the first there is).

    Raises:
        DataError: If there is no such split, a folder is missing, or meta.json or a mask is damaged.
    """
    splits = _splits(root)
    if split is None:
        split = next(iter(splits), None)
    if split is None or split not in splits:
        raise DataError(
            f"{root}: YouTube-VOS has no split {split!r} here; there is {', '.join(splits) or 'none'}, each a folder "
            "with JPEGImages/<video>/"
        )
    folder, labelled = splits[split], _labels(splits, split)
    clips = []
    for video in list_folders(folder / "JPEGImages"):
        labels = labelled / "Annotations" / video.name
        frames = [Frame(image.stem, image, label_beside(labels, image)) for image in list_images(video)]
        if frames:
            clips.append(make_clip(video.name, frames))
    if not clips:
        raise DataError(f"{folder / 'JPEGImages'} holds no frames; expected <video>/00000.jpg and others")
    label_map = object_map(_objects(labelled / "meta.json", clips), palette_of(clips))
    partial = _partial(clips) if not split.startswith("train") else ()
    return ClipIndex(root, "youtubevos", label_map, tuple(clips), notes=tuple(_notes(partial)))


def _splits(root: Path) -> dict[str, Path]:
    """Return the folders of the splits by name: those below the root, or the root itself."""
    places = [base / f"{name}{kind}" for base in (root, root / "all_frames") for kind in ("", ALL_FRAMES)
              for name in SPLITS]  # fmt: skip
    found = {place.name: place for place in reversed(places) if _is_split(place)}
    if not found and _is_split(root):
        return {root.name: root}
    return {place.name: found[place.name] for place in places if place.name in found}


def _is_split(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and not (folder / "JPEGImages" / RESOLUTION).is_dir()


def _has_labels(folder: Path) -> bool:
    """Tell whether the frames of a split have labels of this data set: VOC's JPEGImages lie beside Annotations, too."""
    if not (folder / "Annotations").is_dir():
        return (folder / "meta.json").is_file()
    return (folder / "meta.json").is_file() or any(
        (folder / "JPEGImages" / path.name).is_dir() for path in (folder / "Annotations").iterdir() if path.is_dir()
    )


def _labels(splits: dict[str, Path], split: str) -> Path:
    """Return the folder with the masks of a split: those of all frames lie beside the frames of every fifth."""
    own = splits[split]
    return own if (own / "Annotations").is_dir() else splits.get(split.removesuffix(ALL_FRAMES), own)


def _objects(meta: Path, clips: Sequence[Clip]) -> set[int]:
    """Return the numbers of the objects: from meta.json, and from the masks of videos that it does not name.

    Raises:
        DataError: If meta.json is damaged.
    """
    if not meta.is_file():
        return objects_of(clips)
    try:
        videos = read_json(meta, "download it again, or remove it to have the masks read")["videos"]
        known = {name: {int(number) for number in video["objects"]} for name, video in videos.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'{meta} does not name the objects of videos, as {{"videos": {{"0032": {{"objects": {{"1": …}}}}}}}}: '
            f"{type(error).__name__} {error}; download it again, or remove it to have the masks read"
        ) from error
    named: set[int] = set().union(*(known.get(clip.name, set()) for clip in clips))
    if odd := sorted(number for number in named if not 0 < number < 255):
        raise DataError(f"{meta} names the object {odd[0]}, expected numbers from 1 to 254; download it again")
    return named | objects_of([clip for clip in clips if clip.name not in known])


def _partial(clips: Iterable[Clip]) -> list[Path]:
    """Return the masks that lack an object of an earlier mask of their video."""
    lacking = []
    for clip in clips:
        labels = [frame.label for frame in clip.frames if frame.label is not None]
        seen: set[int] = set()
        for label in labels if len(labels) > 1 else ():
            ids = ids_of(label)
            if seen - ids:
                lacking.append(label)
            seen |= ids - {0, 255}
    return lacking


def _notes(partial: Sequence[Path]) -> list[str]:
    if not partial:
        return []
    return [
        f"{len(partial)} masks lack objects of earlier ones, the first is {partial[0]}: where they are keyframes, such "
        "objects count as background; list the other keyframes to leave them out"
    ]
