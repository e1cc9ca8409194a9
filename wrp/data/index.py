"""The index of a data set: its clips, their keyframes, and the intervals between them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from wrp.errors import DataError, listed
from wrp.io.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, same_form
from wrp.io.listing import list_images as list_images
from wrp.io.opening import read_text
from wrp.io.video import VIDEO_SUFFIXES
from wrp.options import SelectArgs, read_slice
from wrp.structures import Clip, Frame, Interval, LabelMap, VideoFrame

logger = logging.getLogger("wrp")

CLIP = "clip"
"""Name of the layout of a single clip, whose video or frames and labels lie anywhere."""


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
        broken: What is wrong with each clip that is not among ``clips``, by its name.

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
    broken: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def reads(self) -> set[Path]:
        """The folders that frames and labels are read from, with links resolved: nothing is ever written there.

        Of a single clip, and of what is never labelled, the files: a folder that happens to hold a video or such a
        picture may well get others.
        """
        frames = [*self.images, *(frame for clip in self.clips for frame in clip.frames)]
        never = {frame.never for frame in frames if frame.never is not None}
        if self.layout == CLIP:
            return {file.resolve() for file in never.union(files_of(frames))}
        return {file.resolve() for file in never} | folders_of(files_of(frames), self.root)

    @property
    def training_frames(self) -> list[Frame]:
        """The further images and the keyframes."""
        return [*self.images, *(clip.frames[keyframe] for clip in self.clips for keyframe in clip.keyframes)]

    @property
    def labels_go_to(self) -> Path:
        """Where further labels belong: in the folder of its labels or, in another layout, in the data set's folder."""
        files = (frame.label for clip in self.clips for frame in clip.frames if frame.label is not None)
        if self.layout == CLIP:
            return next((file.parent for file in files), self.root)
        return self.root / "labels" if self.layout == "folder" else self.root

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
            too, or that file alone if it is a video.
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
            target = os.path.realpath(target) if os.path.islink(target) else target
            # The folder of a video holds none of its other frames.
            folders.add(target if target.lower().endswith(VIDEO_SUFFIXES) else os.path.dirname(target))
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
    return replace(clip, keyframes=keyframes, held_out=tuple(sorted({*labelled} - {*keyframes})))


def keep_labels(clip: Clip, stems: set[str]) -> Clip:
    """Keep the labelled frames of these names as keyframes and hold out the others for scoring.

    Example:
        >>> clip = make_clip("a", [Frame(str(i), Path(f"{i}.png"), Path(f"{i}-label.png")) for i in range(3)])
        >>> keep_labels(clip, {"1"}).held_out
        (0, 2)
    """
    labelled = sorted({*clip.keyframes, *clip.held_out})
    keyframes = tuple(i for i in labelled if clip.frames[i].stem in stems)
    return replace(clip, keyframes=keyframes, held_out=tuple(sorted({*labelled} - {*keyframes})))


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


def narrow(index: ClipIndex, select: SelectArgs) -> ClipIndex:
    """Choose clips by name and frames by number, and mark what is never labelled; labels are not held out.

    Args:
        index: The data set.
        select: Which clips and frames are used.

    Returns:
        The chosen clips; ``notes`` of the index name labels outside of the chosen frames.

    Raises:
        DataError: If a name is unknown, no frame of a clip is chosen, or the picture is missing.

    Example:
        >>> clip = make_clip("a", [Frame(str(i), Path(f"{i}.png"), Path(f"{i}-label.png")) for i in range(5)])
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), (clip,))
        >>> chosen = narrow(index, SelectArgs(frames="1:4:2"))
        >>> [frame.stem for frame in chosen.clips[0].frames], chosen.notes
        (['1', '3'], ('clip a: the labels of frames 0, 2, 4 are not used, as they are not in --frames 1:4:2',))
    """
    clips, names, notes, broken = index.clips, select.clips, list[str](), index.broken
    if names is not None:
        known = {*(clip.name for clip in clips), *broken}
        if missing := [name for name in names if name not in known]:
            raise DataError(
                f"{index.root} has no clip {missing[0]!r}; its clips are {listed(clip.name for clip in clips)}"
            )
        chosen = set(names)
        broken = {name: problem for name, problem in broken.items() if name in chosen}
        clips = tuple(clip for clip in clips if clip.name in chosen)
    if select.frames is not None:
        clips = tuple([_cut(clip, select.frames, notes) for clip in clips])
    if select.never is not None:
        never = Path(select.never)
        if not never.is_file():
            raise DataError(f"there is no picture {never}, which --never names")
        clips = tuple(replace(clip, frames=tuple(replace(f, never=never) for f in clip.frames)) for clip in clips)
    return replace(index, clips=clips, notes=(*index.notes, *notes), broken=broken)


def _cut(clip: Clip, frames: str, notes: list[str]) -> Clip:
    """Return a clip of the chosen frames, and note the labels of the others."""
    numbers = range(len(clip.frames))[read_slice(frames)]
    if not numbers:
        raise DataError(f"--frames {frames} leaves none of the {len(clip.frames)} frames of clip {clip.name}")
    place = {number: i for i, number in enumerate(numbers)}
    if unused := [clip.frames[i].stem for i in sorted({*clip.keyframes, *clip.held_out}) if i not in place]:
        many = "s" if len(unused) > 1 else ""
        notes.append(
            f"clip {clip.name}: the label{many} of frame{many} {listed(unused)} {'are' if many else 'is'} not used, as "
            f"{'they are' if many else 'it is'} not in --frames {frames}"
        )
    return replace(
        clip,
        frames=tuple(clip.frames[i] for i in numbers),
        keyframes=tuple(place[i] for i in clip.keyframes if i in place),
        held_out=tuple(place[i] for i in clip.held_out if i in place),
    )


def select_clips(index: ClipIndex, select: SelectArgs, by_network: bool = False, skip: bool = False) -> ClipIndex:
    """Choose clips by name and hold out labels.

    Args:
        index: The data set.
        select: Which clips are used, and which labels are kept as keyframes.
        by_network: Whether clips without any label are used, too, as a network alone labels all frames.
        skip: Whether to leave out clips without a keyframe, as broken ones, instead of raising.

    Returns:
        The chosen clips, each with at least one keyframe unless ``by_network``; broken ones are chosen by name, too.

    Raises:
        DataError: If a name is unknown, a number is out of range, options exclude one another, or a clip has no
            keyframe.

    Example:
        >>> clip = make_clip("a", [Frame(str(i), Path(f"{i}.png"), Path(f"{i}-label.png")) for i in range(5)])
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), (clip,))
        >>> select_clips(index, SelectArgs(label_every=4)).clips[0].keyframes
        (0, 4)
    """
    every, offset = select.label_every, select.label_offset
    keyframes = Path(select.keyframes) if select.keyframes is not None else None
    if keyframes is not None and every is not None:
        raise DataError(f"label-every {every} and a list of keyframes, {keyframes}, exclude one another")
    if every is not None and every < 1:
        raise DataError(f"label-every must be at least 1, got {every}")
    if offset < 0 or (offset and every is None):
        raise DataError(f"label-offset must be at least 0 and goes with label-every, got {offset}")
    whole, index = index, narrow(index, select)
    clips, broken = index.clips, dict(index.broken)
    if every is not None:
        clips = tuple(hold_out_labels(clip, every, offset) for clip in clips)
    if keyframes is not None:
        wanted: dict[str, set[str]] = {}
        for name, stem in listed_frames(whole, keyframes):
            wanted.setdefault(name, set()).add(stem)
        clips = tuple(keep_labels(clip, wanted.get(clip.name, set())) for clip in clips)
    if by_network:
        clips = tuple(clip if clip.keyframes or clip.held_out else replace(clip, by_network=True) for clip in clips)
    for clip in clips:
        if not clip.keyframes and not clip.by_network:
            reason = f", label-every {every} from {offset} leaves none of {len(clip.held_out)}" if clip.held_out else ""
            otherwise = "" if index.layout == CLIP else ", or choose other clips by name"
            broken[clip.name] = (
                f"clip {clip.name} of {index.root} has no labelled frame{reason}; label at least one of its "
                f"{len(clip.frames)} frames{otherwise}"
            )
            if not skip:
                raise DataError(broken[clip.name])
    return replace(index, clips=tuple(clip for clip in clips if clip.name not in broken), broken=broken)


def intervals(clip: Clip) -> list[Interval]:
    """Cut a clip into intervals at its keyframes; each frame belongs to exactly one.

    Returns:
        The intervals in temporal order; of a clip without a keyframe none, or one if a network alone labels it.

    Example:
        >>> clip = Clip("a", tuple(Frame(str(i), Path(f"{i}.png")) for i in range(10)), keyframes=(2, 6))
        >>> [(interval.start, interval.stop, interval.keyframes) for interval in intervals(clip)]
        [(0, 2, (2,)), (2, 6, (2, 6)), (6, 10, (6,))]
    """
    ends = list(clip.keyframes)
    count = len(clip.frames)
    if not ends:
        return [Interval(clip, 0, count, None, None)] if clip.by_network else []
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
