"""The index: clips, their keyframes, and the intervals between them."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wrp.errors import DataError
from wrp.io.images import IMAGE_SUFFIXES
from wrp.options import SelectArgs
from wrp.structures import Clip, Frame, Interval, LabelMap, VideoFrame

logger = logging.getLogger("wrp")


@dataclass(frozen=True)
class ClipIndex:
    """A data set as its layout found it.

    Attributes:
        root: Its folder.
        layout: Name of its layout.
        label_map: Its classes.
        clips: Its clips; every frame that has a label is a keyframe.
        images: Further labelled frames outside of the clips, for the teacher.
        binary: Whether the labels are masks of one object, scored by J and F.
    """

    root: Path
    layout: str
    label_map: LabelMap
    clips: tuple[Clip, ...]
    images: tuple[Frame, ...] = ()
    binary: bool = False

    @property
    def reads(self) -> set[Path]:
        """The folders that its frames and labels are read from, without links: nothing is ever written there."""
        return folders_of(files_of([*self.images, *(frame for clip in self.clips for frame in clip.frames)]), self.root)

    @property
    def training_frames(self) -> list[Frame]:
        """The further images and the keyframes."""
        return [*self.images, *(clip.frames[keyframe] for clip in self.clips for keyframe in clip.keyframes)]

    def without(self, names: Collection[str]) -> ClipIndex:
        """The same without some clips."""
        return replace(self, clips=tuple(clip for clip in self.clips if clip.name not in names))

    def held_out_throughout(self) -> ClipIndex:
        """The same clips, all of whose labels are hidden as well; they may still be used as keyframes."""
        clips = (replace(clip, held_out=tuple(sorted({*clip.keyframes, *clip.held_out}))) for clip in self.clips)
        return replace(self, clips=tuple(clips))


def files_of(frames: Iterable[Frame]) -> Iterator[Path]:
    """The files of frames and of their labels."""
    for frame in frames:
        yield frame.image.path if isinstance(frame.image, VideoFrame) else frame.image
        if frame.label is not None:
            yield frame.label


def folders_of(files: Iterable[Path], root: Path | None = None) -> set[Path]:
    """The folders that files are read from, without links.

    Args:
        files: The files by the names under which they are read; where one is a link, what it leads to counts, too.
        root: Of a data set: then a folder right below it counts as a whole, also where files lie deeper.
    """
    folders = set()
    for file in files:
        folders.add(file.parent)
        if file.is_symlink():
            folders.add(file.resolve().parent)
    if root is not None:
        below = [folder.relative_to(root).parts for folder in folders if folder.is_relative_to(root)]
        folders |= {root / parts[0] for parts in below if parts}
    return {folder.resolve() for folder in folders}


def make_clip(name: str, frames: Iterable[Frame]) -> Clip:
    """A clip whose labelled frames are all keyframes."""
    frames = tuple(frames)
    return Clip(name, frames, tuple(i for i, frame in enumerate(frames) if frame.label is not None))


def hold_out_labels(clip: Clip, every: int, offset: int = 0) -> Clip:
    """Keep the labelled frames number ``offset``, ``offset + every`` … as keyframes and hide the others for scoring."""
    labelled = sorted({*clip.keyframes, *clip.held_out})
    keyframes = tuple(labelled[offset::every])
    return replace(clip, keyframes=keyframes, held_out=tuple(i for i in labelled if i not in set(keyframes)))


def keep_labels(clip: Clip, stems: set[str]) -> Clip:
    """Keep the labelled frames of these names as keyframes and hide the others for scoring."""
    labelled = sorted({*clip.keyframes, *clip.held_out})
    keyframes = tuple(i for i in labelled if clip.frames[i].stem in stems)
    return replace(clip, keyframes=keyframes, held_out=tuple(i for i in labelled if i not in set(keyframes)))


def read_list(path: Path) -> list[str]:
    """The lines of a list, such as names of clips or ``<clip>/<frame>``; its content's hash is logged.

    Empty lines and those that begin with ``#`` are left out.

    Raises:
        DataError: If there is no such file, a line comes twice, or leads out of a folder.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if bad := [line for line in lines if line.startswith("/") or ".." in line.split("/")]:
        raise DataError(f"{path} names {bad[0]!r}, which leads out of the data set")
    if double := [line for line, times in Counter(lines).items() if times > 1]:
        raise DataError(f"{path} names {double[0]!r} twice")
    logger.info(
        "%s: %d entries, sha256 %s", path, len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    )
    return lines


def listed_frames(index: ClipIndex, path: Path) -> set[tuple[str, str]]:
    """Clip and name of the labelled frames in a list; DataError if one of them is none of the data set."""
    wanted = {(clip, stem) for clip, _, stem in (line.rpartition("/") for line in read_list(path))}
    labelled = {(clip.name, clip.frames[i].stem) for clip in index.clips for i in (*clip.keyframes, *clip.held_out)}
    if lost := sorted(wanted - labelled):
        raise DataError(f"{path} names {'/'.join(lost[0])}, which is no labelled frame of {index.root}")
    return wanted


def select_clips(index: ClipIndex, select: SelectArgs) -> ClipIndex:
    """Choose clips by name and hold labels back.

    Args:
        index: The data set.
        select: Which clips, and which labels are kept.

    Raises:
        DataError: If a name is unknown, a number is out of range, or a clip has no keyframe.
    """
    names, every, offset = select.clips, select.label_every, select.label_offset
    keyframes = Path(select.keyframes) if select.keyframes is not None else None
    if keyframes is not None and every is not None:
        raise DataError(f"label-every {every} and a list of keyframes, {keyframes}, exclude one another")
    if every is not None and every < 1:
        raise DataError(f"label-every must be at least 1, got {every}")
    if offset < 0 or (offset and every is None):
        raise DataError(f"label-offset must be at least 0 and goes with label-every, got {offset}")
    clips = index.clips
    if names is not None:
        if missing := [name for name in names if name not in {clip.name for clip in clips}]:
            raise DataError(
                f"{index.root} has no clip {missing[0]!r}; its clips are {_some(clip.name for clip in clips)}"
            )
        clips = tuple(clip for clip in clips if clip.name in names)
    if every is not None:
        clips = tuple(hold_out_labels(clip, every, offset) for clip in clips)
    if keyframes is not None:
        wanted = listed_frames(index, keyframes)
        clips = tuple(keep_labels(clip, {stem for name, stem in wanted if name == clip.name}) for clip in clips)
    for clip in clips:
        if not clip.keyframes:
            reason = f", label-every {every} from {offset} leaves none of {len(clip.held_out)}" if clip.held_out else ""
            raise DataError(
                f"clip {clip.name} of {index.root} has no labelled frame{reason}; label at least one of its "
                f"{len(clip.frames)} frames, or choose other clips by name"
            )
    return replace(index, clips=clips)


def intervals(clip: Clip) -> list[Interval]:
    """The units of work of a clip: each frame belongs to exactly one."""
    ends = list(clip.keyframes)
    count = len(clip.frames)
    if not ends:
        return []
    cuts = []
    if ends[0] > 0:
        cuts.append(Interval(clip, 0, ends[0], None, ends[0]))
    cuts += [Interval(clip, a, b, a, b) for a, b in zip(ends, ends[1:], strict=False)]
    last = ends[-1]
    if last == count - 1 and cuts:
        cuts[-1] = replace(cuts[-1], stop=count)
    else:
        cuts.append(Interval(clip, last, count, last, None))
    return cuts


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder in the order of their names.

    Raises:
        DataError: If the folder is missing or two files have one stem.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        double = next(stem for stem in stems if stems.count(stem) > 1)
        raise DataError(f"{folder} holds two images named {double!r}; every frame needs a name of its own")
    return files


def label_beside(folder: Path, image: Path) -> Path | None:
    """The label ``folder/<stem>.png`` of an image, if it is there."""
    path = folder / f"{image.stem}.png"
    return path if path.is_file() else None


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
