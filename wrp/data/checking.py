"""Checks of a data set: of every file, to report what it holds and what is damaged, and of what a run needs."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wrp.data.index import ClipIndex, intervals
from wrp.errors import DataError
from wrp.io.manifest import note_broken
from wrp.io.opening import read_content
from wrp.io.pixels import (
    fitting_label_array,
    frame_label_array,
    image_array,
    label_array,
    never_array,
    read_size,
)
from wrp.io.progress import progress
from wrp.io.tables import markdown_table
from wrp.io.video import open_video
from wrp.io.writing import checksum
from wrp.options import MAX_PROCESSES, check_range
from wrp.structures import IGNORE_INDEX, Clip, Frame, LabelMap, VideoFrame

logger = logging.getLogger("wrp")

# Files that are read at the same time before a run: on a disk of the network, waiting for them takes longest.
THREADS = 4


@dataclass
class Findings:
    """The result of :func:`check_data`.

    Attributes:
        index: The data set.
        sizes: Number of frames of each size (height, width) in pixels, by clip name; further images are under "".
        pixels: Number of labelled pixels by clip name: an int64 array (C + 1,), one number for each class and, last,
            that of unlabelled pixels in labelled frames.
        broken: One message for each problem: a file that cannot be used, a clip of mixed sizes, a clip without a label.
        notes: One message for each thing that may be a mistake.

    Example:
        >>> from wrp.structures import LabelMap
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), ())
        >>> print(describe(Findings(index, broken=["clip a: none of its 3 frames has a label"])).splitlines()[-1])
        - clip a: none of its 3 frames has a label
    """

    index: ClipIndex
    sizes: dict[str, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_data(index: ClipIndex, threads: int = 2) -> Findings:
    """Read every frame and label of a data set.

    Args:
        index: The data set.
        threads: Number of files that are read at the same time.

    Returns:
        What was found. Problems are collected, not raised.

    Raises:
        WrpError: If there are no threads or too many.

    Example:
        >>> import tempfile
        >>> from wrp.data.layouts.registry import open_index
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_synthetic(Path(folder, "street"), clips=1, frames=2, size=(32, 48), seed=0)
        ...     found = check_data(open_index(Path(folder, "street")))
        >>> dict(found.sizes["street0"]), found.pixels["street0"].sum().item(), found.broken
        ({(32, 48): 2}, 3072, [])
    """
    check_range("the number of threads", threads, 1, MAX_PROCESSES)
    found = Findings(index, broken=[*index.problems, *index.broken.values()])
    work = [("", frame) for frame in index.images] + [(c.name, frame) for c in index.clips for frame in c.frames]
    with cancelling(threads) as pool:
        results: Iterable[Any] = pool.map(lambda item: _read(item[1], index), work)
        results = progress(results, desc="Reading", unit="frame", total=len(work))
        for (clip, _), result in zip(work, results, strict=True):
            if isinstance(result, str):
                found.broken.append(result)
                continue
            size, counts = result
            found.sizes[clip][size] += 1
            if counts is not None:
                found.pixels[clip] = found.pixels.get(clip, 0) + counts
    found.broken += _odd_clips(found)
    found.notes += [*index.notes, *_notes(found)]
    return found


@contextmanager
def cancelling(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of ``threads`` threads; if the block raises, cancel the work that has not begun."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _read(frame: Frame, index: ClipIndex) -> tuple[tuple[int, int], np.ndarray | None] | str:
    """Return the size and the pixel counts by class of a frame, or a message if it cannot be used."""
    try:
        height, width, _ = image_array(frame.image).shape
        if frame.label is None:
            return (height, width), None
        label = frame_label_array(frame, index.label_map, (height, width))
    except DataError as error:
        return str(error)
    classes = index.label_map.num_classes
    label = np.where(label == IGNORE_INDEX, classes, label)
    return (height, width), np.bincount(label.ravel(), minlength=classes + 1)


def _odd_clips(found: Findings) -> Iterator[str]:
    for clip in found.index.clips:
        if len(sizes := found.sizes[clip.name]) > 1:
            text = ", ".join(f"{n} of {width}×{height}" for (height, width), n in sizes.items())
            yield f"clip {clip.name}: all frames of a clip must have one size, got {text}"
        if not clip.keyframes:
            yield f"clip {clip.name}: none of its {len(clip.frames)} frames has a label; label at least one"


def _notes(found: Findings) -> Iterator[str]:
    index = found.index
    counts = sum(found.pixels.values(), np.zeros(index.label_map.num_classes + 1, np.int64))
    if note := note_on_masks(index.label_map, counts):
        yield note
    yield from notes_on_numbers(index)


def notes_on_numbers(index: ClipIndex) -> Iterator[str]:
    """Yield what :func:`note_on_numbers` says of the clips; those with a broken file are passed over."""
    for clip in index.clips:
        with suppress(DataError):
            if note := note_on_numbers(clip, index.label_map):
                yield note


def note_on_masks(label_map: LabelMap, counts: np.ndarray) -> str | None:
    """Describe what is odd about labels of two classes that show one class and unlabelled pixels alone.

    Masks of 0 and 255 are read so, as 255 means unlabelled.

    Args:
        label_map: The classes.
        counts: Labelled pixels of each class and, last, unlabelled ones, (C + 1,).

    Example:
        >>> label_map = LabelMap((0, 1), ("road", "car"), ((0, 0, 0), (1, 1, 1)))
        >>> note_on_masks(label_map, np.array([90, 0, 10])).partition(":")[0]
        "labels show 'road' and unlabelled pixels alone, never 'car'"
    """
    if label_map.num_classes != 2 or IGNORE_INDEX not in label_map.ignore or not counts[-1]:
        return None
    shown = [name for name, count in zip(label_map.names, counts, strict=False) if count]
    if len(shown) != 1:
        return None
    [other] = set(label_map.names) - set(shown)
    return (
        f"labels show {shown[0]!r} and unlabelled pixels alone, never {other!r}: if {IGNORE_INDEX} means {other!r} in "
        f"the files, write also: [{IGNORE_INDEX}] beside its id in classes.yaml, and take {IGNORE_INDEX} out of ignore"
    )


# Labels that are compared with the frames beside their own, and by how much the contrast must be greater there.
COMPARED = 8
LATE = 1.3


def note_on_numbers(clip: Clip, label_map: LabelMap) -> str | None:
    """Describe which numbers the frames of a video have and, if so, that labels fit the frame before their own better.

    Labels that are counted from 1 are one frame late. Measured is the contrast of the picture along the borders of the
    label: the mean difference of the colours of neighbouring pixels whose labels differ.

    Raises:
        DataError: If a frame or a label cannot be read.
    """
    labelled = [(clip.frames[i].image, clip.frames[i].label) for i in clip.keyframes]
    numbered = [(image, label) for image, label in labelled if isinstance(image, VideoFrame) and image.number > 0]
    if not numbered:
        return None
    last = len(open_video(numbered[0][0].path)) - 1
    contrasts = []
    for image, label in numbered[:: -(-len(numbered) // COMPARED)]:
        assert label is not None
        borders = label_array(label, label_map)
        numbers = (image.number - 1, image.number, min(image.number + 1, last))
        contrasts.append([_contrast(image_array(replace(image, number=n)), borders) for n in numbers])
    before, own, after = np.mean(contrasts, 0)
    if before < LATE * own or before < LATE * after:
        return None
    return (
        f"clip {clip.name} has the frames 0 … {last}, and its labels fit the frame before their own better "
        f"(contrast along their borders {before:.1f}, in their own frame {own:.1f}, in the next {after:.1f}): if they "
        "are counted from 1, rename them"
    )


def _contrast(image: np.ndarray, labels: np.ndarray) -> float:
    """Return the contrast along the borders of labels (H, W) in an image (H, W, 3) uint8; 0 without borders."""
    total, count = 0.0, 0
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int16), axis=axis) != 0
        steps = np.abs(np.diff(image.astype(np.int16), axis=axis)).mean(-1)
        total, count = total + float(steps[differs].sum()), count + int(differs.sum())
    return total / count if count else 0.0


@dataclass
class Checked:
    """The result of :func:`check_files`.

    Attributes:
        clips: Names of the clips that can be used.
        broken: What is wrong with each other clip, by clip name.
        changed: Names of the clips of which a labelled frame is not what it was when it was labelled.
        shown: Clip name and frame index of each keyframe that has a pixel with a class.
        images: Whether any further labelled image has a pixel with a class.
        pixels: Number of pixels of each class and, last, without a class in the labels of keyframes, int64 (C + 1,).

    Example:
        >>> Checked(["a", "b"], shown={("a", 0)}).unlabelled
        ['b']
    """

    clips: list[str]
    broken: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    shown: set[tuple[str, int]] = field(default_factory=set)
    images: bool = False
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def unlabelled(self) -> list[str]:
        """The clips whose keyframes have no pixel with a class."""
        return sorted(set(self.clips) - {clip for clip, _ in self.shown})


def check_files(
    index: ClipIndex, teacher: bool, skip: bool = False, decoded: Mapping[str, Mapping[int, str]] | None = None
) -> Checked:
    """Check before a run what is cheap to check: all labels, and the headers of all frames.

    The pixels of a frame are not decoded, unless its clip is named in ``decoded``: damage to them is found by whoever
    reads them first.

    Args:
        index: The clips that are read.
        teacher: Whether the data set's further labelled images are needed.
        skip: Whether to leave out clips with a damaged file, with a warning, instead of raising.
        decoded: Names of the clips whose frames are decoded all the same, each with the content hashes, in hexadecimal
            digits, that its labelled frames had, by index in the clip.

    Returns:
        What was found.

    Raises:
        DataError: On the first file that is unreadable, differs in size from its clip, or holds unknown ids; with
            ``skip``, only if it is a further image.

    Example:
        >>> import tempfile
        >>> from wrp.data.layouts.registry import open_index
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_synthetic(Path(folder, "street"), clips=1, frames=2, size=(32, 48), seed=0)
        ...     checked = check_files(open_index(Path(folder, "street")), teacher=True)
        >>> checked.clips, sorted(checked.shown)
        (['street0'], [('street0', 0), ('street0', 1)])
    """
    label_map, known = index.label_map, decoded or {}
    checked = Checked([], pixels=np.zeros(label_map.num_classes + 1, np.int64))
    images = index.images if teacher else ()
    with cancelling(THREADS) as pool:
        for shows in pool.map(lambda frame: _check_image(frame, label_map), images):
            checked.images |= shows
        found = pool.map(lambda clip: _check_clip(clip, label_map, known.get(clip.name)), index.clips)
        bar = progress(found, desc="Checking files", unit="clip", total=len(index.clips))
        for clip, result in zip(index.clips, bar, strict=True):
            if isinstance(result, DataError):
                if not skip:
                    raise result
                checked.broken[clip.name] = str(result)
                logger.warning("Skipping clip %s: %s", clip.name, result)
                continue
            checked.clips.append(clip.name)
            checked.shown |= {(clip.name, keyframe) for keyframe in result.shown}
            checked.pixels += result.pixels
            checked.changed += [clip.name] if result.changed else []
    return checked


def check_training_frames(index: ClipIndex, run: Path, skip: bool) -> dict[str, str]:
    """Decode the labelled frames and the further images before networks are trained on them.

    Args:
        index: The clips.
        run: Folder of the run, in which clips with a damaged frame are noted, see
            :func:`~wrp.io.manifest.note_broken`.
        skip: Whether to return these clips, with a warning, instead of raising.

    Returns:
        What is wrong with each such clip, by clip name.

    Raises:
        DataError: On the first frame that cannot be decoded; with ``skip``, if it is a further image, or no clip is
            left.
    """
    broken: dict[str, str] = {}
    frames = [("", frame) for frame in index.images]
    frames += [(clip.name, clip.frames[keyframe]) for clip in index.clips for keyframe in clip.keyframes]
    with cancelling(THREADS) as pool:
        found = pool.map(lambda item: _problem(item[1]), frames)
        bar = progress(found, desc="Reading labelled frames", unit="frame", total=len(frames))
        for (clip, _), problem in zip(frames, bar, strict=True):
            if problem is None or clip in broken:
                continue
            if clip:
                note_broken(run, clip, problem)
            if not (skip and clip):
                raise DataError(problem)
            broken[clip] = problem
            logger.warning("Skipping clip %s: %s", clip, problem)
    refuse_all_broken(index, broken)
    return broken


def refuse_all_broken(index: ClipIndex, broken: Mapping[str, str]) -> None:
    """Raise DataError if each clip of a data set has a broken file."""
    if broken and all(clip.name in broken for clip in index.clips):
        raise DataError(f"every clip of {index.root} has a broken file; the first: {next(iter(broken.values()))}")


def file_hashes(clips: Iterable[Clip]) -> dict[str, str]:
    """Hash names, sizes and times of the files of frames, which are not opened, and what is never labelled in them.

    Args:
        clips: The clips.

    Returns:
        By clip name, two hashes of 16 hexadecimal digits with a space between: that of the names and sizes of its
        files and of the picture of what is never labelled, and that of the times at which they were last changed.

    Raises:
        DataError: If that picture cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "0.png").touch()
        ...     sizes, times = file_hashes([Clip("a", (Frame("0", Path(folder, "0.png")),))])["a"].split()
        >>> len(sizes), len(times)
        (16, 16)
    """
    with cancelling(THREADS) as pool:
        clips = list(clips)
        return {clip.name: found for clip, found in zip(clips, pool.map(_file_hash, clips), strict=True)}


def _file_hash(clip: Clip) -> str:
    sizes, times = hashlib.sha256(), hashlib.sha256()
    status: dict[Path, tuple[int, int]] = {}
    for frame in clip.frames:
        video = isinstance(frame.image, VideoFrame)
        path = frame.image.path if isinstance(frame.image, VideoFrame) else frame.image
        if path not in status:
            try:
                found = path.stat()
                status[path] = found.st_size, found.st_mtime_ns
            except OSError:  # what is missing is reported by who reads it
                status[path] = -1, -1
            times.update(f"{status[path][1]}\n".encode())
        sizes.update(f"{frame.stem if video else path.name} {status[path][0]}\n".encode())
    for never in sorted({frame.never for frame in clip.frames if frame.never is not None}):
        sizes.update(checksum(read_content(never)).encode())
    return f"{sizes.hexdigest()[:16]} {times.hexdigest()[:16]}"


@dataclass
class _ClipFound:
    """The keyframes of a clip with a class, their pixels by class, and whether a labelled frame has changed."""

    shown: list[int]
    pixels: np.ndarray
    changed: bool


def _check_clip(clip: Clip, label_map: LabelMap, known: Mapping[int, str] | None) -> _ClipFound | DataError:
    """Check the frames of a clip by their headers or, where hashes of labelled ones are known, by decoding all of them.

    Returns:
        What was found, or the error with which a file is refused.
    """
    classes, keyframes = label_map.num_classes, set(clip.keyframes)
    found = _ClipFound([], np.zeros(classes + 1, np.int64), any(i >= len(clip.frames) for i in known or ()))
    first: tuple[int, int] | None = None
    try:
        for i, frame in enumerate(clip.frames):
            if known is not None:
                image = image_array(frame.image)
                found.changed |= known.get(i, "") not in ("", _hash_of(image))
                size = _size_of(image)
            elif first is not None and isinstance(frame.image, VideoFrame):  # each would have to be decoded
                size = first
            else:
                size = read_size(frame.image)
            first = first or size
            if size != first:
                _refuse_other_size(frame, clip.frames[0])
            if i == 0 and frame.never is not None:  # else it is read with the labels alone
                never_array(frame.never, _size_of(image_array(frame.image)))
            if frame.label is None:
                continue
            label = fitting_label_array(frame, label_map, size)
            if i in keyframes:
                every = np.array(Image.fromarray(label).histogram())  # much faster than NumPy's
                counts = np.append(every[:classes], every[IGNORE_INDEX])
                found.pixels += counts
                found.shown += [i] if counts[:-1].any() else []
    except DataError as error:
        return error
    return found


def _check_image(frame: Frame, label_map: LabelMap) -> bool:
    """Check the header of an image and its label, and tell whether it has a pixel with a class."""
    size = read_size(frame.image)
    return frame.label is not None and bool((fitting_label_array(frame, label_map, size) != IGNORE_INDEX).any())


def _refuse_other_size(frame: Frame, first: Frame) -> None:
    """Raise DataError if the sizes of two frames of a clip differ not only by their headers."""
    (height, width), expected = (_size_of(image_array(one.image)) for one in (frame, first))
    if (height, width) != expected:
        raise DataError(
            f"{frame.image} is {width}×{height} pixels, {first.image} is {expected[1]}×{expected[0]}; all "
            "frames of a clip must have one size"
        )


def _size_of(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _hash_of(image: np.ndarray) -> str:
    """Return the content hash of an image (H, W, 3), in hexadecimal digits."""
    import torch  # by a run alone, which needs it anyway

    from wrp.flow.hashing import content_hash

    return content_hash(torch.from_numpy(image).permute(2, 0, 1)).hex()


def _problem(frame: Frame) -> str | None:
    """Return why a frame cannot be decoded, or None."""
    try:
        image_array(frame.image)
    except DataError as error:
        return str(error)
    return None


def describe(found: Findings) -> str:
    """Format the findings as Markdown."""
    index = found.index
    parts = [f"{index.root}: layout {index.layout}, {index.label_map.num_classes} classes"]
    if index.images:
        parts[0] += f", {len(index.images)} labelled images outside of the clips"
    rows = [_row(clip, found) for clip in index.clips]
    parts.append(markdown_table(["clip", "frames", "labelled", "intervals", "longest", "size"], rows))
    if index.problems or index.broken:
        parts.append("Clips whose frames or labels could not be listed are not in this table; the reasons are below.")
    counts = sum(found.pixels.values(), np.zeros(index.label_map.num_classes + 1, np.int64))
    if counts.any():
        shares = 100 * counts / counts.sum()
        cells = [[name, f"{share:.2f}"] for name, share in zip((*index.label_map.names, "(none)"), shares, strict=True)]
        parts.append(markdown_table(["class", "% of the labelled frames' pixels"], cells))
        if absent := [name for name, n in zip(index.label_map.names, counts, strict=False) if not n]:
            parts.append(f"No label shows: {', '.join(absent)}")
    if found.broken:
        listed = "\n".join(f"- {message}" for message in found.broken)
        parts.append(f"{problems(found)}:\n{listed}")
    if found.notes:
        parts.append(
            "Please look at (if it is meant to be so, nothing needs to be done):\n"
            + "\n".join(f"- {message}" for message in found.notes)
        )
    if not found.broken:
        parts.append("Everything can be used.")
    return "\n\n".join(parts)


def problems(found: Findings) -> str:
    """Return the number of problems in words, such as ``2 problems``."""
    return f"{len(found.broken)} problem{'s' if len(found.broken) > 1 else ''}"


def _row(clip: Clip, found: Findings) -> list[str]:
    spans = [interval.stop - interval.start for interval in intervals(clip)]
    sizes = ", ".join(f"{width}×{height}" for height, width in found.sizes[clip.name])
    counts = [str(n) for n in (len(clip.frames), len(clip.keyframes), len(spans), max(spans, default=0))]
    return [clip.name, *counts, sizes or "–"]


def synthetic_size(text: str) -> tuple[int, int]:
    """Parse ``WIDTHxHEIGHT`` into (height, width) in pixels; raise DataError if the text has another form."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise DataError(f"a size must be WIDTHxHEIGHT, such as 448x256; got {text!r}")
    return int(height), int(width)


def make_synthetic(out: Path, clips: int, frames: int, size: tuple[int, int], seed: int) -> None:
    """Write generated clips in the folder layout; raise WrpError if the folder holds anything else."""
    from wrp.data.synthetic.folder import generate_folder

    generate_folder(out, seed=seed, num_frames=frames, height=size[0], width=size[1], clips=clips)
