"""The package's own layout: ``frames/<clip>/<stem>.{png,jpg}``, ``labels/<clip>/<stem>.png``, ``classes.yaml``.

Frames are taken in the order of their names; a clip may be a video file ``frames/<clip>.mp4`` instead, whose labels are
named after the number of their frame, from 0. Only the labelled frames need a label file. Without a ``classes.yaml``
labels have to be indexed PNGs, whose palette and values make the classes. A split is a list ``splits/<split>.txt`` of
names of clips.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import ClipIndex, label_beside, list_images, make_clip, read_list
from wrp.errors import DataError
from wrp.io.label_map import map_from_palettes, read_label_map
from wrp.io.video import VIDEO_SUFFIXES, open_video
from wrp.structures import Frame, VideoFrame

# Names that are often given to the folder of the labels.
MISNAMED = ("label", "masks", "mask", "annotations", "ground_truth", "gt")


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "frames").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """Index the clips under ``root``, or those that ``splits/<split>.txt`` lists.

    Raises:
        DataError: If a part of the layout is missing.
    """
    folders = sorted(folder for folder in (root / "frames").iterdir() if folder.is_dir())
    videos = sorted(f for f in (root / "frames").iterdir() if f.suffix.lower() in VIDEO_SUFFIXES and f.is_file())
    names = [source.stem if source in videos else source.name for source in (*folders, *videos)]
    if double := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{root / 'frames'} holds two clips named {double[0]!r}; every clip needs a name of its own")
    if not (root / "labels").is_dir() and (others := [name for name in MISNAMED if (root / name).is_dir()]):
        raise DataError(f"{root / others[0]} is not read: labels are expected in {root / 'labels'}; rename it")
    clips = []
    listed = read_list(root / "splits" / f"{split}.txt") if split is not None else names
    if unknown := sorted(set(listed) - set(names)):
        raise DataError(
            f"{root / 'splits' / f'{split}.txt'} names {unknown[0]!r}, which is no clip in {root / 'frames'}"
        )
    for name, source in sorted(zip(names, (*folders, *videos), strict=True)):
        if name not in listed:
            continue
        labels = root / "labels" / name
        frames = _of_video(source, labels) if source in videos else _of_folder(source, labels)
        if frames:
            clips.append(make_clip(name, frames))
        stems = {frame.stem for frame in frames}
        if labels.is_dir() and (
            lost := [p for p in sorted(labels.glob("*.png")) if _stem(p, source in videos) not in stems]
        ):
            raise DataError(f"{lost[0]} is the label of no frame in {source}; a label has the name of its frame")
    if (root / "labels").is_dir():
        for labels in sorted((root / "labels").iterdir()):
            if labels.is_dir() and labels.name not in names:
                raise DataError(
                    f"{labels} holds labels of no clip: there is no folder {root / 'frames' / labels.name}, nor a video"
                )
    if not clips:
        raise DataError(f"{root / 'frames'} holds no clips; expected frames/<clip>/<stem>.png or .jpg, or videos")
    classes = root / "classes.yaml"
    labelled = [clip.frames[i].label for clip in clips for i in clip.keyframes]
    if classes.is_file() or not labelled:
        label_map = read_label_map(classes)
    else:
        label_map = map_from_palettes(path for path in labelled if path is not None)
    return ClipIndex(root, "folder", label_map, tuple(clips))


def _of_folder(folder: Path, labels: Path) -> list[Frame]:
    return [Frame(image.stem, image, label_beside(labels, image)) for image in list_images(folder)]


def _of_video(path: Path, labels: Path) -> list[Frame]:
    given = {_stem(label, video=True): label for label in sorted(labels.glob("*.png"))}
    stems = [f"{number:06d}" for number in range(len(open_video(path)))]
    return [Frame(stem, VideoFrame(path, number), given.get(stem)) for number, stem in enumerate(stems)]


def _stem(label: Path, video: bool) -> str:
    """Return the name of the frame to which a label belongs; for a video's, any number of leading zeros is allowed."""
    if not video:
        return label.stem
    if not label.stem.isdecimal():
        raise DataError(f"{label} is the label of a video's frame, expected the frame's number, such as 000012.png")
    return f"{int(label.stem):06d}"
