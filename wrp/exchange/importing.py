"""Import of labels that annotators have corrected: into a data set in the package's own layout, or a clip's labels."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from wrp.data.index import CLIP, ClipIndex
from wrp.data.layouts.registry import LAYOUTS, open_index
from wrp.data.run import open_run
from wrp.errors import DataError
from wrp.exchange.base import Returned, top_folder
from wrp.exchange.export import find_format
from wrp.exchange.names import WrittenNames
from wrp.io.label_map import require_same_classes
from wrp.io.listing import list_folders, same_form
from wrp.io.locking import in_turn
from wrp.io.opening import check_ratio
from wrp.io.outputs import RUN, owner_of
from wrp.io.pixels import confidence_array, image_array, label_array
from wrp.io.progress import progress
from wrp.io.writing import remove_leftovers, require_writable, sync_folder, write_label
from wrp.structures import IGNORE_INDEX, LabelMap

logger = logging.getLogger("wrp")

# Number of problems that a message lists; all are counted.
NAMED = 3


def import_labels(
    source: Path,
    format_name: str,
    into: Path,
    frames: Path | None = None,
    changed_from: Path | None = None,
    force: bool = False,
    clip: str | None = None,
) -> list[str]:
    """Read labels back into a data set, all or none, as ``wrp import`` does.

    Args:
        source: Output of another program: a folder, a ZIP archive of it, or the file with the labels.
        format_name: A name in :data:`~wrp.exchange.export.FORMATS`.
        into: Data set in the package's layout; or, where the run below has labelled a single clip, the folder of its
            labels.
        frames: List of the frames to import, lines ``<clip>/<frame>``; the others are left out. None: all. The folder
            of the list, if it is that of a run, says which run it is.
        changed_from: The run that was exported: only frames whose label differs from the run's are imported. None: all.
        force: Replace labels that are there already.
        clip: The clip of the names that name none; None: there must be only one that fits.

    Returns:
        The names of the frames, ``<clip>/<frame>``, that got a label.

    Raises:
        WrpError: If anything cannot be imported, or the data set cannot be written to; nothing is written then.
    """
    chosen = find_format(format_name)
    run = frames.parent if frames is not None and owner_of(frames.parent) == RUN else changed_from
    with in_turn(into):
        index = _open_data(into, run)
        targets = _Targets(index, into if index.layout == CLIP else index.root / "labels", clip)
        require_writable(targets.labels)
        remove_leftovers(targets.labels)
        listed = None if frames is None else targets.names.listed(frames)
        is_wanted = _differs_from(changed_from, index.label_map) if changed_from is not None else _always
        with unpacked(source) as place:
            place = top_folder(place, chosen.HOLDS)
            wanted = _checked(source, chosen.read(place, index.label_map), listed, targets, is_wanted, force)
            for folder in {targets.path(name).parent for name in wanted.values()}:
                require_writable(folder)
            labels = (label for label in chosen.read(place, index.label_map) if label.name in wanted)
            for label in progress(labels, desc="Writing", unit="label", total=len(wanted)):
                targets.write(wanted[label.name], label)
            for folder in {targets.path(name).parent for name in wanted.values()}:
                sync_folder(folder)
    before = len(listed) - len(wanted) if listed else 0
    there = f"; {before} {'was' if before == 1 else 'were'} there already" if before else ""
    logger.info("Imported %d label%s into %s%s", len(wanted), "" if len(wanted) == 1 else "s", targets.labels, there)
    # Not printed, as lists of keyframes are made of what is.
    logger.info("next: the command of the run again, with another --out and --continue %s", run or "DIR, its folder")
    return list(wanted.values())


def _open_data(into: Path, run: Path | None) -> ClipIndex:
    """Index the data set that labels go into or, if that is a folder of labels, the single clip of a run.

    Frames that the run has left out count, too: the numbers in names are those of the whole clip.
    """
    if not into.is_dir() or LAYOUTS["folder"].matches(into):
        return open_index(into, "folder")
    of_run = None if run is None else open_run(run, by_network=True)
    if of_run is None or of_run.layout != CLIP or of_run.root.resolve() == into.resolve():
        raise DataError(
            f"{into} does not have the layout 'folder': expected a data set with frames/ and labels/, which `wrp init` "
            "makes; or the folder of labels that belongs to a video or a folder of frames, together with a run of it "
            "as --changed-from DIR, or the list of one as --frames DIR/suggest.txt"
        )
    labelled = any(frame.label is not None for clip in of_run.clips for frame in clip.frames)
    return open_index(of_run.root, CLIP, labels=str(into), classes=None if labelled else of_run.label_map)


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """Yield a folder or file as it is; unpack a ZIP archive for as long as the block lasts.

    Backslashes in the names of Windows programs are slashes, also in a folder whose archive was unpacked without that.

    Raises:
        DataError: If it is not there, is damaged, does not fit on the disk, or holds names that lead out of it.
    """
    if not source.exists():
        raise DataError(f"there is no {source}")
    if source.is_dir() and any("\\" in path.name for path in source.iterdir()):
        with tempfile.TemporaryDirectory(prefix="wrp-") as folder:
            _link(source, Path(folder))
            yield Path(folder)
        return
    if source.is_dir() or not zipfile.is_zipfile(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="wrp-") as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                entries = _entries(source, archive)
                size, room = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
                check_ratio(source, source.stat().st_size, size)
                if size > room:
                    raise DataError(f"{source} holds {size:,} bytes, of which {room:,} fit into {folder}")
                archive.extractall(folder, entries)
        except DataError:
            raise
        except Exception as error:  # damaged archives raise what each way of compression raises
            raise DataError(f"{source} cannot be unpacked: {error}") from error
        yield Path(folder)


def _link(source: Path, folder: Path) -> None:
    """Make links in a folder to all files of another, with backslashes in their names as slashes."""
    for path in source.rglob("*"):
        if path.is_dir():
            continue
        place = PurePosixPath(path.relative_to(source).as_posix().replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts:
            raise DataError(f"{path} has a name that leads out of the folder")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).symlink_to(path.absolute())


def _entries(source: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return what an archive holds, with slashes in its names where Windows programs write backslashes.

    Raises:
        DataError: If a name leads out of the archive, or two files have one.
    """
    entries, seen = archive.infolist(), set[PurePosixPath]()
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{source} names the file {entry.filename!r}, which leads out of the archive")
        entry.filename = entry.filename.replace("\\", "/")
        if path in seen and not entry.is_dir():
            raise DataError(f"{source} holds two files named {entry.filename!r}")
        seen.add(path)
    return entries


class _Targets:
    """The frames of a data set by their names, and where their labels are or will be.

    Args:
        index: The data set.
        labels: Folder of a single clip's labels, or of those of all clips, each in a folder of its own.
        clip: The clip of names that name none.
    """

    def __init__(self, index: ClipIndex, labels: Path, clip: str | None = None) -> None:
        self.labels = labels
        self.single = index.layout == CLIP
        self.label_map = index.label_map
        self.names = WrittenNames(index, clip)
        self.clips = {clip.name: clip for clip in index.clips}
        self.frames = {f"{clip.name}/{frame.stem}": frame for clip in index.clips for frame in clip.frames}
        self._clip_size, self._clip_folder = cache(self._read_size), cache(self._find_folder)

    def size(self, name: str) -> tuple[int, int]:
        """Return height and width, which all frames of a clip share."""
        return self._clip_size(name.rpartition("/")[0])

    def path(self, name: str) -> Path:
        """Return where the label of a frame will be written: in place of the one that is there, but as a PNG."""
        label = self.frames[name].label
        if label is not None:
            return label if label.suffix.lower() == ".png" else label.with_suffix(".png")
        clip, _, stem = name.rpartition("/")
        return self._clip_folder(clip) / f"{stem}.png"

    def write(self, name: str, label: Returned) -> None:
        """Write a label in place of the one that is there."""
        path, before = self.path(name), self.frames[name].label
        write_label(path, label.decode(self.size(name)), self.label_map)
        if before is not None and before != path:
            before.unlink()

    def _find_folder(self, clip: str) -> Path:
        """Return the folder of a clip's labels, which may be there in another Unicode form."""
        if self.single:
            return self.labels
        there = list_folders(self.labels) if self.labels.is_dir() else []
        return next((folder for folder in there if same_form(folder.name) == same_form(clip)), self.labels / clip)

    def _read_size(self, clip: str) -> tuple[int, int]:
        height, width, _ = image_array(self.clips[clip].frames[0].image).shape
        return height, width


def _checked(
    source: Path,
    labels: Iterator[Returned],
    listed: set[str] | None,
    targets: _Targets,
    is_wanted: Callable[[str, np.ndarray], bool],
    force: bool,
) -> dict[str, str]:
    """Return the frames of the labels to write, by the names that the labels have there.

    Raises:
        DataError: If there are problems: it counts them, and names the first.
    """
    wanted, seen, hit = dict[str, str](), set[str](), set[str]()
    there, problems = list[str](), list[str]()
    for label in progress(labels, desc="Checking", unit="label"):
        there.append(label.name)
        try:
            fitting = targets.names.fitting(label.name) if listed is not None else [targets.names.find(label.name)]
        except DataError as error:
            if listed is None:
                problems.append(f"{label.name}: {error}")
            continue
        if listed is not None and listed.isdisjoint(fitting):
            continue
        hit.update(fitting)
        name = label.name
        try:
            name = targets.names.find(label.name)
            if name in seen:
                raise DataError("its label comes twice")
            seen.add(name)
            if _is_new(name, label, targets, is_wanted, force):
                wanted[label.name] = name
        except DataError as error:
            problems.append(f"{name}: {error}")
    missing = sorted((listed or set()) - hit)
    problems += [f"{name}: it has no label there" for name in missing]
    if problems:
        raise DataError(_describe(source, problems) + (_what_is_there(there, targets) if missing else ""))
    if not there:
        raise DataError(f"{source} holds no labels; is it of this format?")
    return wanted


def _describe(source: Path, problems: list[str]) -> str:
    count = f"{len(problems)} frame{'s' if len(problems) > 1 else ''}"
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    first = "; ".join(problems[:NAMED])
    return f"{source}: {count} cannot be imported, so nothing was written: {first}{more}"


def _what_is_there(there: list[str], targets: _Targets) -> str:
    """Say which names the labels have and, if one of them cannot be understood, why."""
    if not there:
        return "; it holds no labels at all"
    more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
    text = f"; it has labels of {', '.join(repr(name) for name in there[:NAMED])}{more}"
    for name in there:
        try:
            targets.names.find(name)
        except DataError as error:
            return f"{text} ({name}: {error})"
    return text


def _is_new(
    name: str, label: Returned, targets: _Targets, is_wanted: Callable[[str, np.ndarray], bool], force: bool
) -> bool:
    """Tell whether a label has to be written; raise DataError if it cannot be."""
    frame = targets.frames[name]
    labels = label.decode(targets.size(name))
    label_map = targets.label_map
    if not is_wanted(name, labels):
        return False
    if (labels == IGNORE_INDEX).all():
        raise DataError("nothing in it is labelled")
    if not np.array_equal(label_map.encode(label_map.decode(labels)), labels):
        raise DataError(f"it has unlabelled pixels, but the data set takes {IGNORE_INDEX} for a class")
    if frame.label is None:
        return True
    if np.array_equal(label_array(frame.label, label_map), labels):
        return False  # so that an interrupted import can be done again
    if not force:
        raise DataError(f"it has another label already, {frame.label}; --force replaces it")
    return True


def _always(name: str, labels: np.ndarray) -> bool:
    return True


def _differs_from(run: Path, label_map: LabelMap) -> Callable[[str, np.ndarray], bool]:
    """Make a function that tells whether a label differs from a run's."""
    theirs = open_run(run, by_network=True).label_map.written
    require_same_classes(label_map, theirs, str(run))

    def differs(name: str, labels: np.ndarray) -> bool:
        size = (labels.shape[0], labels.shape[1])
        before = label_array(run / "labels" / f"{name}.png", theirs, size)
        return is_changed(labels, before, confidence_array(run / "confidence" / f"{name}.png", size))

    return differs


def is_changed(labels: np.ndarray, before: np.ndarray, confidence: np.ndarray) -> bool:
    """Tell whether a label was changed after its export.

    Pixels that an export with ``--min-confidence`` left out do not count: they are the least confident pixels of the
    label, all less confident than any that was kept.

    Args:
        labels: Class indices (H, W) uint8 that were read back.
        before: Class indices (H, W) uint8 of the run.
        confidence: The run's confidence (H, W), in [0, 1].
    """
    kept = labels != IGNORE_INDEX
    left_out = ~kept & (before != IGNORE_INDEX)
    if (labels != before)[~left_out].any():
        return True
    if not left_out.any():
        return False
    return bool(kept.any() and confidence[left_out].max() >= confidence[kept].min())
