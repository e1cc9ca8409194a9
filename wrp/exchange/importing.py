"""Import of labels that annotators have corrected, into a data set in the package's own layout."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from wrp.data.index import ClipIndex, read_list
from wrp.data.layouts.registry import open_index
from wrp.data.run import open_run
from wrp.errors import DataError
from wrp.exchange.export import find_format
from wrp.exchange.frames import Returned
from wrp.io.images import read_confidence, read_image, read_label
from wrp.io.progress import progress
from wrp.io.writing import write_label
from wrp.structures import IGNORE_INDEX, Frame, LabelMap

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
) -> list[str]:
    """Read labels back into a data set, all or none, as ``wrp import`` does.

    Args:
        source: Output of another program: a folder, a ZIP archive of it, or the file with the labels.
        format_name: A name in :data:`~wrp.exchange.export.FORMATS`.
        into: Data set in the package's layout.
        frames: List of the frames to import, lines ``<clip>/<frame>``; the others are left out. None: all.
        changed_from: The run that was exported: only frames whose label differs from the run's are imported. None: all.
        force: Replace labels that are there already.

    Returns:
        The names of the frames, ``<clip>/<frame>``, that got a label.

    Raises:
        DataError: If anything cannot be imported; nothing is written then.
    """
    chosen = find_format(format_name)
    index = open_index(into, "folder")
    queries = _Targets(index)
    listed = None if frames is None else set(read_list(frames))
    is_wanted = _differs_from(changed_from, index.label_map) if changed_from is not None else _always
    with unpacked(source) as folder:
        found = dict.fromkeys(_checked(source, chosen.read(folder, index.label_map), listed, queries, is_wanted, force))
        labels = (label for label in chosen.read(folder, index.label_map) if label.name in found)
        for label in progress(labels, desc="Writing", unit="label", total=len(found)):
            write_label(queries.path(label.name), label.decode(queries.size(label.name)), index.label_map)
    logger.info("Imported %d labels into %s", len(found), index.root / "labels")
    return list(found)


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """Yield a folder or file as it is; unpack a ZIP archive for as long as the block lasts.

    Raises:
        DataError: If it is not there, is damaged, does not fit on the disk, or holds names that lead out of it.
    """
    if not source.exists():
        raise DataError(f"there is no {source}")
    if source.is_dir() or not zipfile.is_zipfile(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="wrp-") as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    path = PurePosixPath(name.replace("\\", "/"))
                    if path.is_absolute() or ".." in path.parts:
                        raise DataError(f"{source} names the file {name!r}, which leads out of the archive")
                size, room = sum(entry.file_size for entry in archive.infolist()), shutil.disk_usage(folder).free
                if size > room:
                    raise DataError(f"{source} holds {size:,} bytes, of which {room:,} fit into {folder}")
                archive.extractall(folder)
        except DataError:
            raise
        except Exception as error:  # damaged archives raise what each way of compression raises
            raise DataError(f"{source} cannot be unpacked: {error}") from error
        yield Path(folder)


class _Targets:
    """The frames of a data set by their names."""

    def __init__(self, index: ClipIndex) -> None:
        self.root = index.root
        self.label_map = index.label_map
        self.clips = {clip.name: clip for clip in index.clips}
        self.frames = {f"{clip.name}/{frame.stem}": frame for clip in index.clips for frame in clip.frames}
        self._clip_size = cache(self._read_size)

    def frame(self, name: str) -> Frame:
        """Return the frame of a name; raise DataError if there is none."""
        if name not in self.frames:
            raise DataError(f"there is no such frame in {self.root}")
        return self.frames[name]

    def size(self, name: str) -> tuple[int, int]:
        """Return height and width, which all frames of a clip share."""
        return self._clip_size(name.rpartition("/")[0])

    def path(self, name: str) -> Path:
        """Return where the label of a frame is or will be written."""
        return self.frame(name).label or self.root / "labels" / f"{name}.png"

    def _read_size(self, clip: str) -> tuple[int, int]:
        height, width = read_image(self.clips[clip].frames[0].image).shape[1:]
        return height, width


def _checked(
    source: Path,
    labels: Iterator[Returned],
    listed: set[str] | None,
    queries: _Targets,
    is_wanted: Callable[[str, np.ndarray], bool],
    force: bool,
) -> list[str]:
    """Return the names of the labels to write; raise DataError that counts the problems if there are any."""
    wanted, problems, seen = [], [], Counter[str]()
    for label in progress(labels, desc="Checking", unit="label"):
        if listed is not None and label.name not in listed:
            continue
        seen[label.name] += 1
        try:
            if seen[label.name] > 1:
                raise DataError("its label comes twice")
            if _is_new(label, queries, is_wanted, force):
                wanted.append(label.name)
        except DataError as error:
            problems.append(f"{label.name}: {error}")
    problems += [f"{name}: it has no label there" for name in sorted((listed or set()) - set(seen))]
    if problems:
        count = f"{len(problems)} frame{'s' if len(problems) > 1 else ''}"
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        first = "; ".join(problems[:NAMED])
        raise DataError(f"{source}: {count} cannot be imported, so nothing was written: {first}{more}")
    if not seen:
        raise DataError(f"{source} holds no labels; is it of this format?")
    return wanted


def _is_new(label: Returned, queries: _Targets, is_wanted: Callable[[str, np.ndarray], bool], force: bool) -> bool:
    """Tell whether a label has to be written; raise DataError if it cannot be."""
    frame = queries.frame(label.name)
    labels = label.decode(queries.size(label.name))
    label_map = queries.label_map
    if not is_wanted(label.name, labels):
        return False
    if (labels == IGNORE_INDEX).all():
        raise DataError("nothing in it is labelled")
    if not np.array_equal(label_map.encode(label_map.decode(labels)), labels):
        raise DataError(f"it has unlabelled pixels, but the data set takes {IGNORE_INDEX} for a class")
    if frame.label is None:
        return True
    if np.array_equal(read_label(frame.label, label_map).numpy(), labels):
        return False  # so that an interrupted import can be done again
    if not force:
        raise DataError(f"it has another label already, {frame.label}; --force replaces it")
    return True


def _always(name: str, labels: np.ndarray) -> bool:
    return True


def _differs_from(run: Path, label_map: LabelMap) -> Callable[[str, np.ndarray], bool]:
    """Make a function that tells whether a label differs from a run's."""
    theirs = open_run(run).label_map.written
    if theirs.names != label_map.names:
        raise DataError(f"{run} has the classes {', '.join(theirs.names)}, expected {', '.join(label_map.names)}")

    def differs(name: str, labels: np.ndarray) -> bool:
        size = (labels.shape[0], labels.shape[1])
        before = read_label(run / "labels" / f"{name}.png", theirs, size).numpy()
        return is_changed(labels, before, read_confidence(run / "confidence" / f"{name}.png", size).numpy())

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
