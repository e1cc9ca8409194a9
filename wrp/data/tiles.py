"""An index of where each class occurs in the labels, so that crops can be drawn uniformly over the classes.

Zhu et al., "Improving Semantic Segmentation via Video Propagation and Label Relaxation", CVPR 2019: half of the crops
are centred on a tile that shows a class, which is drawn uniformly.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wrp.io.images import read_frame_label
from wrp.io.progress import progress
from wrp.io.together import in_turns, processes, together
from wrp.io.writing import replacing
from wrp.structures import Frame, LabelMap

logger = logging.getLogger("wrp")

# Height and width of a tile in pixels.
TILE = 64

# Number of pixels of a class from which on a tile shows this class.
LEAST = 32

CACHE = Path("~/.cache/wrp/tiles")


def class_tiles(frames: Sequence[Frame], label_map: LabelMap, cache: Path | None = None) -> np.ndarray:
    """Find all tiles that show a class, each process in its part of the labels; the result is cached in a file.

    Args:
        frames: Labelled frames.
        label_map: Classes of the labels.
        cache: Folder of the cache; None: ``~/.cache/wrp/tiles``.

    Returns:
        (N, 4) int32: class, number of the frame, and mean row and column in pixels of the class's pixels in the tile.
    """
    folder = CACHE.expanduser() if cache is None else cache
    path = folder / f"{_key(frames, label_map)}.npy"
    known = _cached(path)
    if all(together(lambda: known is not None)):
        assert known is not None
        return known
    count, rank = processes()
    mine = progress(range(rank, len(frames), count), desc="Indexing classes", unit="label")
    parts = together(lambda: [_tiles_of(frames[number], number, label_map) for number in mine])
    found = np.concatenate([*in_turns(parts), np.empty((0, 4), np.int32)])
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, found)
    return found


def _cached(path: Path) -> np.ndarray | None:
    """Return what an earlier call has found, if it can be read."""
    if not path.is_file():
        return None
    try:
        found: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        if found.ndim == 2 and found.shape[1] == 4 and found.dtype == np.int32:
            return np.array(found)
    except Exception as error:  # a damaged file raises whatever its header means
        logger.warning("%s is damaged (%s) and made anew", path, error)
    return None


def _tiles_of(frame: Frame, number: int, label_map: LabelMap) -> np.ndarray:
    if frame.label is None:
        return np.empty((0, 4), np.int32)
    return _tiles(read_frame_label(frame, label_map).numpy(), number, label_map.num_classes)


def _key(frames: Sequence[Frame], label_map: LabelMap) -> str:
    digest = hashlib.sha256(repr((label_map, TILE, LEAST)).encode())
    for frame in frames:
        for path in (frame.label, frame.never if frame.label is not None else None):
            if path is not None:
                state = path.stat()
                digest.update(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _tiles(label: np.ndarray, number: int, num_classes: int) -> np.ndarray:
    rows, columns = (-(-side // TILE) for side in label.shape)
    y, x = np.indices(label.shape)
    tile = (y // TILE) * columns + x // TILE
    cell = np.where(label < num_classes, label.astype(np.int64) * rows * columns + tile, num_classes * rows * columns)
    cell = cell.ravel()
    count = np.bincount(cell, minlength=num_classes * rows * columns + 1)[:-1]
    down = np.bincount(cell, y.ravel(), minlength=len(count) + 1)[:-1]
    across = np.bincount(cell, x.ravel(), minlength=len(count) + 1)[:-1]
    # A frame smaller than a tile, or a class that is small everywhere, still counts.
    (cells,) = np.nonzero(count >= np.minimum(LEAST, np.maximum(1, _most(count, num_classes))))
    middle = np.stack((down[cells] / count[cells], across[cells] / count[cells]), 1)
    classes = cells // (rows * columns)
    return np.column_stack((classes, np.full(len(cells), number), middle)).astype(np.int32)


def _most(count: np.ndarray, num_classes: int) -> np.ndarray:
    """Return, for each cell, how many pixels its class has in the tile that shows most of it."""
    by_class = count.reshape(num_classes, -1)
    return np.broadcast_to(by_class.max(1, keepdims=True), by_class.shape).ravel()
