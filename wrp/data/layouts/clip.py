"""A single clip: a video, or a folder of its frames, and the folder of its labels that ``--labels`` names.

The name of the video or folder is that of the clip. Labels are named as in the layout ``folder``: with the numbers of
a video's frames, from 0, or as the frames. If no folder is named, labels are those in ``labels/`` beside the
video or in the folder of frames, if there are any. ``classes.yaml`` lies in the folder of the labels or, if that is
``labels/``, beside it; without one, labels have to be indexed PNGs.
"""

from __future__ import annotations

from pathlib import Path

from wrp.data.index import CLIP, ClipIndex, make_clip
from wrp.data.layouts.folder import frames_of
from wrp.errors import DataError
from wrp.io.label_map import map_from_palettes, note_on_names, read_label_map
from wrp.io.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, list_folders, list_labels, visible
from wrp.io.video import is_video
from wrp.structures import Clip, LabelMap

CLASSES = "classes.yaml"


def matches(root: Path) -> bool:
    """Tell whether this is a video, or a folder that holds images."""
    if root.is_file():
        return is_video(root)
    return any(path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir() for path in visible(root))


def read_index(
    root: Path, split: str | None = None, classes: LabelMap | None = None, labels: Path | None = None
) -> ClipIndex:
    """Index a video, or a folder of frames.

    Args:
        root: The video or folder.
        split: Must be None.
        classes: The classes if there are neither labels nor a classes.yaml; None: labels are needed.
        labels: Folder of the labels; None: the folder ``labels``, if there is one.

    Returns:
        The clip; what would be left out is in ``problems``, as in :func:`wrp.data.layouts.folder.read_index`.

    Raises:
        DataError: If labels or classes are needed and are not there.
    """
    if split is not None:
        raise DataError(f"{root} is a single clip and has no splits, got {split!r}")
    beside = root.parent if root.is_file() else root
    if labels is None and (beside / "labels").is_dir():
        labels = beside / "labels"
    elsewhere = labels is not None and labels.resolve() != (beside / "labels").resolve()
    places = [place / CLASSES for place in (labels, None if elsewhere else beside) if place is not None]
    if labels is None and classes is None:
        raise DataError(
            f"{root} is a single clip: give the folder of its labels by --labels FOLDER; if there are none yet, "
            f"`wrp init NEW {root}` makes a folder with frames to label"
        )
    name = root.stem if root.is_file() else root.resolve().name
    problems: list[str] = []
    notes: list[str] = []
    clips: tuple[Clip, ...] = ()
    passed = {root, beside / CLASSES, *(list_folders(root) if root.is_dir() else ())}
    if labels is not None:
        _require_labels(labels, root, classes)
        passed |= {labels / CLASSES, *list_folders(labels)}
    try:
        clips = (make_clip(name, frames_of(name, root, labels, notes, passed)),)
    except DataError as error:
        problems.append(str(error))
    unread: list[str] = []
    if elsewhere and not places[0].is_file() and (beside / CLASSES).is_file():
        unread.append(f"{beside / CLASSES} is not read: the classes of the labels in {labels} belong into {places[0]}")
    try:
        # From all labels, whether their frames were found or not: what is wrong there says nothing of the classes.
        files = [] if labels is None else list(list_labels(labels).values())
        label_map = _classes(places, files, classes, notes)
    except DataError as error:
        raise DataError("\n".join([*problems, str(error), *unread])) from error
    return ClipIndex(root, CLIP, label_map, clips, notes=(*unread, *notes), problems=tuple(problems))


def _require_labels(folder: Path, root: Path, classes: LabelMap | None) -> None:
    """Raise DataError if a folder holds no label, although classes have to be learned from one."""
    if list_labels(folder) or (folder.is_dir() and classes is not None):
        return
    if folder.is_file():
        swapped = f": are the two swapped? {root} is a folder" if root.is_dir() else ""
        raise DataError(f"--labels {folder} is a file, expected the folder of the labels{swapped}")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}, which --labels names")
    below = next((inner for inner in list_folders(folder) if list_labels(inner)), None)
    hint = "" if below is None else f"; {below} does: is it meant?"
    raise DataError(f"{folder} holds no label ({', '.join(LABEL_SUFFIXES)}){hint}")


def _classes(places: list[Path], labels: list[Path], given: LabelMap | None, notes: list[str]) -> LabelMap:
    """Read what the values of labels mean, from the first of these files that is there, or from the labels."""
    path = next((path for path in places if path.is_file()), None)
    if path is not None:
        return read_label_map(path)
    if given is not None and not labels:
        return given
    try:
        label_map = map_from_palettes(labels)
    except DataError as error:
        raise DataError(f"there is no {places[0]}: {error}") from error
    notes.append(note_on_names(label_map, places[0]))
    return label_map
