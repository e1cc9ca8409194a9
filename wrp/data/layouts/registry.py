"""The known layouts of data sets: those of this package, and those that other packages register."""

from __future__ import annotations

import os
from pathlib import Path

from wrp.data.index import ClipIndex
from wrp.data.layouts import (
    apolloscape,
    camvid,
    camvid32,
    cityscapes,
    davis,
    davis2017,
    folder,
    kitti,
    nyuv2,
    vspw,
    youtubevos,
)
from wrp.data.layouts.base import Layout
from wrp.errors import DataError, WrpError
from wrp.io.plugins import plugins

LAYOUTS: dict[str, Layout] = {
    "folder": folder,
    "camvid": camvid,
    "camvid32": camvid32,
    "cityscapes": cityscapes,
    "kitti": kitti,
    "nyuv2": nyuv2,
    "apolloscape": apolloscape,
    "vspw": vspw,
    "youtubevos": youtubevos,
    "davis2017": davis2017,
    "davis": davis,
}
"""The layouts of this package, in the order in which they are tried."""


def layouts() -> dict[str, Layout]:
    """Return all layouts by name: this package's own, then those of the entry points ``wrp.layouts``.

    Raises:
        WrpError: If a layout of another package cannot be imported.
    """
    added = plugins("wrp.layouts", LAYOUTS)
    for name, layout in added.items():
        if lacking := [part for part in ("matches", "read_index") if not callable(getattr(layout, part, None))]:
            raise WrpError(f"the entry point {name!r} in wrp.layouts is {layout!r}, which lacks {lacking[0]}")
    return LAYOUTS | added


def find_folder(root: str | Path) -> Path:
    """Find a data set's folder: as given or, if there is none of this name, below the folder in ``WRP_DATA``.

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


def summary(layout: Layout) -> str:
    """Return the first line of a layout's docstring, without its full stop."""
    return (layout.__doc__ or "").split("\n")[0].rstrip(".")


def open_index(root: str | Path, layout: str = "auto", split: str | None = None, strict: bool = True) -> ClipIndex:
    """Index a data set.

    Args:
        root: Its folder, see :func:`find_folder`.
        layout: ``auto``, which takes the first layout that matches, or a name in :func:`layouts`.
        split: Name of a split, if the layout has splits.
        strict: Whether problems are raised; otherwise they are in the index, for whoever lists them.

    Returns:
        The clips, with every labelled frame as a keyframe.

    Raises:
        DataError: If the folder is missing or does not have the layout.
    """
    known = layouts()
    try:
        root = find_folder(root)
    except DataError as error:
        if layout not in known:
            raise
        raise DataError(f"{error}. Expected is {known[layout].__doc__ or ''}".rstrip()) from error
    if layout == "auto":
        found = [name for name, candidate in known.items() if candidate.matches(root)]
        if not found:
            listed = "\n".join(f"  {name}: {summary(candidate)}" for name, candidate in known.items())
            raise DataError(f"{root} has no layout that is known. Expected one of\n{listed}")
        layout = found[0]
    if layout not in known:
        raise DataError(
            f"unknown layout {layout!r}, expected auto, {', '.join(known)}; is the package that registers it installed?"
        )
    if not known[layout].matches(root):
        raise DataError(f"{root} does not have the layout {layout!r}. {known[layout].__doc__ or ''}".rstrip())
    index = known[layout].read_index(root, split)
    if strict and index.problems:
        more = len(index.problems) - 1
        others = (
            f"; and {more} more problem{'s' if more > 1 else ''}, which `wrp data check {root}` lists" if more else ""
        )
        raise DataError(f"{index.problems[0]}{others}")
    return index
