"""Data sets: one small module for each layout, with ``matches(root)`` and ``read_index(root, split)``."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from wrp.data.clips import ClipIndex
from wrp.data.datasets import apolloscape, camvid, camvid32, cityscapes, davis, davis2017, folder, kitti, nyuv2
from wrp.errors import DataError

# In the order in which they are tried.
LAYOUTS = {
    "folder": folder,
    "camvid": camvid,
    "camvid32": camvid32,
    "cityscapes": cityscapes,
    "kitti": kitti,
    "nyuv2": nyuv2,
    "apolloscape": apolloscape,
    "davis2017": davis2017,
    "davis": davis,
}


def find_folder(root: str | Path) -> Path:
    """A data set's folder: as given or, where there is none of this name, below the folder in ``WRP_DATA``.

    Raises:
        DataError: If there is neither.
    """
    places = [Path(root)]
    if base := os.environ.get("WRP_DATA"):
        places.append(Path(base) / root)
    for place in places:
        if place.is_dir():
            return place
    hint = "" if base else "; WRP_DATA, the folder of data sets, is not set"
    raise DataError(f"there is no folder {' nor '.join(map(str, places))}{hint}")


def summary(layout: ModuleType) -> str:
    """The first sentence of what a layout's module says about it."""
    return (layout.__doc__ or "").splitlines()[0].rstrip(".")


def open_index(root: str | Path, layout: str = "auto", split: str | None = None) -> ClipIndex:
    """Index a data set.

    Args:
        root: Its folder, see :func:`find_folder`.
        layout: ``auto`` or a name in :data:`LAYOUTS`.
        split: Name of a split, where the layout has splits.

    Raises:
        DataError: If the folder is missing or does not have the layout.
    """
    try:
        root = find_folder(root)
    except DataError as error:
        if layout not in LAYOUTS:
            raise
        raise DataError(f"{error}. Expected is {LAYOUTS[layout].__doc__ or ''}".rstrip()) from error
    if layout == "auto":
        found = [name for name, module in LAYOUTS.items() if module.matches(root)]
        if not found:
            known = "\n".join(f"  {name}: {summary(module)}" for name, module in LAYOUTS.items())
            raise DataError(f"{root} has no layout that is known. Expected one of\n{known}")
        layout = found[0]
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}, expected auto, {', '.join(LAYOUTS)}")
    if not LAYOUTS[layout].matches(root):
        raise DataError(f"{root} does not have the layout {layout!r}. {LAYOUTS[layout].__doc__ or ''}".rstrip())
    return LAYOUTS[layout].read_index(root, split)
