"""The index of a data set: its clips, their keyframes, and the intervals between them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from wrp.errors import DataError
from wrp.io.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, same_form
from wrp.io.listing import list_images as list_images
from wrp.io.opening import read_text
from wrp.options import SelectArgs
from wrp.structures import Clip, Frame, Interval, LabelMap, VideoFrame

logger = logging.getLogger("wrp")


@dataclass(frozen=True)
class ClipIndex:
    """The clips of a data set, as its layout reads them.

    Attributes:
        root: Its folder.
        layout: Name of its layout.
        label_map: Its classes.
        clips: Its clips; unless labels are held out, every labelled frame is a keyframe.
        images: Further labelled frames outside of the clips, for the teacher.
        binary: Whether the labels are masks of one object, which are scored by region J and contour F.
        notes: What a user should know about the folder, a line each: files that are not read, gaps in numbers.
        problems: What makes it unusable, a line each; :func:`~wrp.data.layouts.registry.open_index` refuses it then.

    Example:
        >>> clip = make_clip("a", [Frame("0", Path("0.png"), Path("0-label.png")), Frame("1", Path("1.png"))])
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), (clip,))
        >>> [frame.stem for frame in index.training_frames], index.held_out_throughout().clips[0].held_out
        (['0'], (0,))
    """

    root: Path
    layout: str
    label_map: LabelMap
    clips: tuple[Clip, ...]
    images: tuple[Frame, ...] = ()
    binary: bool = False
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @cached_property
    def reads(self) -> set[Path]:
        """The folders that frames and labels are read from, with links resolved: nothing is ever written there."""
        return folders_of(files_of([*self.images, *(frame for clip in self.clips for frame in clip.frames)]), self.root)

    @property
    def training_frames(self) -> list[Frame]:
        """The further images and the keyframes."""
        return [*self.images, *(clip.frames[keyframe] for clip in self.clips for keyframe in clip.keyframes)]

    def without(self, names: Collection[str]) -> ClipIndex:
        """Return the index without some clips."""
        if not names:
            return self
        return replace(self, clips=tuple(clip for clip in self.clips if clip.name not in names))

    def held_out_throughout(self) -> ClipIndex:
        """Return the same clips with all labels held out as well; they may still be used as keyframes."""
        clips = (replace(clip, held_out=tuple(sorted({*clip.keyframes, *clip.held_out}))) for clip in self.clips)
        return replace(self, clips=tuple(clips))


def files_of(frames: Iterable[Frame]) -> Iterator[Path]:
    """Yield the files of frames and of their labels; for a frame of a video, the video.

    Example:
        >>> frames = [Frame("0", Path("0.png"), Path("0-label.png")), Frame("1", VideoFrame(Path("a.mp4"), 1))]
        >>> [str(file) for file in files_of(frames)]
        ['0.png', '0-label.png', 'a.mp4']
    """
    for frame in frames:
        yield frame.image.path if isinstance(frame.image, VideoFrame) else frame.image
        if frame.label is not None:
            yield frame.label


def folders_of(files: Iterable[Path], root: Path | None = None) -> set[Path]:
    """Return the folders that files are read from, with links resolved.

    Args:
        files: The files by the names under which they are read; if one is a link, the folder of its destination counts,
            too.
        root: Folder of the data set: each folder directly below it that holds a file, however deep, then counts as a
            whole.

    Example:
        >>> sorted(str(folder) for folder in folders_of([Path("/street/frames/a/0.png")], root=Path("/street")))
        ['/street/frames', '/street/frames/a']
    """
    named = {os.path.split(file) for file in files}
    folders = {parent for parent, _ in named}
    for parent, name in named:  # as strings: there may be hundreds of thousands
        place = os.path.join(parent, name)
        if os.path.islink(place):
            target = os.path.join(parent, os.readlink(place))
            folders.add(os.path.dirname(os.path.realpath(target) if os.path.islink(target) else target))
    found = {Path(folder) for folder in folders}
    if root is not None:
        below = [folder.relative_to(root).parts for folder in found if folder.is_relative_to(root)]
        found |= {root / parts[0] for parts in below if parts}
    return {folder.resolve() for folder in found}


def make_clip(name: str, frames: Iterable[Frame]) -> Clip:
    """Make a clip whose labelled frames are all keyframes.

    Example:
        >>> make_clip("a", [Frame("0", Path("0.png")), Frame("1", Path("1.png"), Path("1-label.png"))]).keyframes
        (1,)
    """
    frames = tuple(frames)
    return Clip(name, frames, tuple(i for i, frame in enumerate(frames) if frame.label is not None))


def hold_out_labels(clip: Clip, every: int, offset: int = 0) -> Clip:
    """Keep the labelled frames number ``offset``, ``offset + every`` … as keyframes and hold out the others.

    Example:
        >>> clip = make_clip("a", [Frame(str(i), Path(f"{i}.png"), Path(f"{i}-label.png")) for i in range(5)])
        >>> clip = hold_out_labels(clip, every=4)
        >>> clip.keyframes, clip.held_out
        ((0, 4), (1, 2, 3))
    """
    labelled = sorted({*clip.keyframes, *clip.held_out})
    keyframes = tuple(labelled[offset::every])
    return replace(clip, keyframes=keyframes, held_out=tuple(i for i in labelled if i not in set(keyframes)))


def keep_labels(clip: Clip, stems: set[str]) -> Clip:
    """Keep the labelled frames of these names as keyframes and hold out the others for scoring.

    Example:
        >>> clip = make_clip("a", [Frame(str(i), Path(f"{i}.png"), Path(f"{i}-label.png")) for i in range(3)])
        >>> keep_labels(clip, {"1"}).held_out
        (0, 2)
    """
    labelled = sorted({*clip.keyframes, *clip.held_out})
    keyframes = tuple(i for i in labelled if clip.frames[i].stem in stems)
    return replace(clip, keyframes=keyframes, held_out=tuple(i for i in labelled if i not in set(keyframes)))


def read_list(path: Path) -> list[str]:
    r"""Read the lines of a list, such as clip names or ``<clip>/<frame>``, and log the hash of its content.

    Empty lines and those that begin with ``#`` are left out.

    Raises:
        DataError: If the file cannot be read, or a line occurs twice or leads out of the data set.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "list.txt")
        ...     _ = path.write_text("# labelled by hand\na/0\na/8\n")
        ...     read_list(path)
        ['a/0', 'a/8']
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [_plain(line) for line in lines if line and not line.startswith("#")]
    if bad := [line for line in lines if line.startswith("/") or ".." in line.split("/")]:
        raise DataError(f"{path} names {bad[0]!r}, which leads out of the data set")
    if double := [line for line, times in Counter(lines).items() if times > 1]:
        raise DataError(f"{path} names {double[0]!r} twice")
    logger.info(
        "%s: %d entries, sha256 %s", path, len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    )
    return lines


def _plain(line: str) -> str:
    """Return a name of a list with slashes, and without a leading ``./``."""
    line = line.replace("\\", "/")
    while line.startswith("./"):
        line = line[2:]
    return line


def listed_frames(index: ClipIndex, path: Path) -> set[tuple[str, str]]:
    """Read the clip and the name of each frame in a list of labelled frames.

    Args:
        index: The data set.
        path: The list, lines ``<clip>/<frame>``.

    Raises:
        DataError: As :func:`read_list`, or if a line is not a labelled frame of the data set.

    Example:
        >>> import tempfile
        >>> clip = make_clip("a", [Frame("0", Path("0.png"), Path("0-label.png"))])
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), (clip,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "list.txt").write_text("a/0")
        ...     listed_frames(index, Path(folder, "list.txt"))
        {('a', '0')}
    """
    labelled = {
        f"{clip.name}/{clip.frames[i].stem}": (clip.name, clip.frames[i].stem)
        for clip in index.clips
        for i in (*clip.keyframes, *clip.held_out)
    }
    names, wanted = FrameNames(labelled), dict[str, str]()
    for line in read_list(path):
        found = names.find(line)
        if found is None:
            raise DataError(
                f"{path} names {line}, which is no labelled frame of {index.root}; expected lines <clip>/<frame>, such "
                f"as {next(iter(labelled), 'street/000000')}"
            )
        if found in wanted:
            raise DataError(f"{path} names {found} twice, as {wanted[found]!r} and as {line!r}")
        wanted[found] = line
    return {labelled[name] for name in wanted}


def select_clips(index: ClipIndex, select: SelectArgs) -> ClipIndex:
    """Choose clips by name and hold out labels.

    Args:
        index: The data set.
        select: Which clips are used, and which labels are kept as keyframes.

    Returns:
        The chosen clips, each with at least one keyframe.

    Raises:
        DataError: If a name is unknown, a number is out of range, options exclude one another, or a clip has no
            keyframe.

    Example:
        >>> clip = make_clip("a", [Frame(str(i), Path(f"{i}.png"), Path(f"{i}-label.png")) for i in range(5)])
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), (clip,))
        >>> select_clips(index, SelectArgs(label_every=4)).clips[0].keyframes
        (0, 4)
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
        known = {clip.name for clip in clips}
        if missing := [name for name in names if name not in known]:
            raise DataError(
                f"{index.root} has no clip {missing[0]!r}; its clips are {_some(clip.name for clip in clips)}"
            )
        chosen = set(names)
        clips = tuple(clip for clip in clips if clip.name in chosen)
    if every is not None:
        clips = tuple(hold_out_labels(clip, every, offset) for clip in clips)
    if keyframes is not None:
        wanted: dict[str, set[str]] = {}
        for name, stem in listed_frames(index, keyframes):
            wanted.setdefault(name, set()).add(stem)
        clips = tuple(keep_labels(clip, wanted.get(clip.name, set())) for clip in clips)
    for clip in clips:
        if not clip.keyframes:
            reason = f", label-every {every} from {offset} leaves none of {len(clip.held_out)}" if clip.held_out else ""
            raise DataError(
                f"clip {clip.name} of {index.root} has no labelled frame{reason}; label at least one of its "
                f"{len(clip.frames)} frames, or choose other clips by name"
            )
    return replace(index, clips=clips)


def intervals(clip: Clip) -> list[Interval]:
    """Cut a clip into intervals at its keyframes; each frame belongs to exactly one.

    Returns:
        The intervals in temporal order; none if the clip has no keyframe.

    Example:
        >>> clip = Clip("a", tuple(Frame(str(i), Path(f"{i}.png")) for i in range(10)), keyframes=(2, 6))
        >>> [(interval.start, interval.stop, interval.keyframes) for interval in intervals(clip)]
        [(0, 2, (2,)), (2, 6, (2, 6)), (6, 10, (6,))]
    """
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


def label_beside(folder: Path, image: Path) -> Path | None:
    """Return the label ``folder/<stem>.png`` of an image, or None if there is no such file.

    Raises:
        DataError: If the label is a link to nothing.

    Example:
        >>> label_beside(Path("no-such-folder"), Path("frames/0.jpg")) is None
        True
    """
    for suffix in (*LABEL_SUFFIXES, *(suffix.upper() for suffix in LABEL_SUFFIXES)):
        path = folder / f"{image.stem}{suffix}"
        if path.is_file():
            return path
        if path.is_symlink():
            raise DataError(f"{path} is a broken link: it points to {path.readlink()}, which does not exist")
    return None


class FrameNames:
    """The frames of a data set, found by the names that people and other programs write.

    Args:
        known: The names of all frames, ``<clip>/<stem>``.

    Example:
        >>> frames = FrameNames(["street/000000", "street/000012"])
        >>> frames.find("street/12.png"), frames.find("street/13")
        ('street/000012', None)
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._by_form: dict[str, list[str]] = {}
        self._by_number: dict[tuple[str, int], list[str]] = {}
        for name in known:
            form = same_form(name)
            self._by_form.setdefault(form, []).append(name)
            clip, _, stem = form.rpartition("/")
            if stem.isdecimal():
                self._by_number.setdefault((clip, int(stem)), []).append(name)

    def find(self, name: str) -> str | None:
        """Find the frame of a name.

        Args:
            name: ``<clip>/<stem>``: also with the suffix of an image, in another Unicode form, or with a number that
                has fewer or more leading zeros.

        Returns:
            The name as it is known; None if there is none, or more than one fits.
        """
        name = same_form(name)
        bare = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in IMAGE_SUFFIXES else name
        clip, _, stem = bare.rpartition("/")
        number = int(stem) if stem.isdecimal() else -1
        for fitting in (self._by_form.get(name), self._by_form.get(bare), self._by_number.get((clip, number))):
            if fitting:
                return fitting[0] if len(fitting) == 1 else None
        return None


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
