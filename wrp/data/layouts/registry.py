"""The known layouts of data sets: those of this package, and those that other packages register."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from wrp.data.index import CLIP, ClipIndex
from wrp.data.layouts import (
    apolloscape,
    camvid,
    camvid32,
    cityscapes,
    clip,
    davis,
    davis2017,
    folder,
    kitti,
    nyuv2,
    vspw,
    youtubevos,
)
from wrp.data.layouts.base import Layout
from wrp.errors import DataError, WrpError, check_choice, is_plain, nearest
from wrp.io.listing import visible
from wrp.io.plugins import plugins
from wrp.structures import LabelMap

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
    CLIP: clip,
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
    known = LAYOUTS | added
    known[CLIP] = known.pop(CLIP)  # tried last: any folder with an image in it is one
    return known


def find_folder(root: str | Path, or_file: bool = False) -> Path:
    """Find a data set's folder: as given or, if there is none of this name, below the folder in ``WRP_DATA``.

    Args:
        root: The folder.
        or_file: Whether a file will do as well.

    Raises:
        DataError: If there is neither.
    """
    given = Path(root)
    places = [given]
    if (base := os.environ.get("WRP_DATA")) and not given.is_absolute():
        places.append(Path(base) / root)
    for place in places:
        if place.is_dir() or (or_file and place.is_file()):
            return place
    beside = [path.name for path in visible(given.parent) if or_file or path.is_dir()] if given.parent.is_dir() else []
    near = nearest(given.name, beside)
    hint = "" if near is None else f"; did you mean {given.with_name(near)}?"
    if not (hint or base or given.suffix or given.is_absolute()):
        hint = "; WRP_DATA, the folder of data sets, is not set"
    kind = "file or folder" if or_file else "folder"
    raise DataError(f"there is no {kind} {' nor '.join(map(str, places))}{hint}")


def summary(layout: Layout) -> str:
    """Return the first line of a layout's docstring as plain text: without its full stop, roles and backticks.

    Example:
        >>> summary(folder)
        "The package's own layout: frames/<clip>/<stem>.{png,jpg}, labels/<clip>/<stem>.png, classes.yaml"
    """
    return re.sub(r":[\w:]+:(?=`)|`", "", (layout.__doc__ or "").split("\n")[0].rstrip("."))


def _expected(layout: Layout) -> str:
    """Say in a line what a layout is and, if its docstring has the address, where the data are to be had."""
    address = re.search(r"https?://[^\s`>]+", layout.__doc__ or "")
    return f"Expected: {summary(layout)}" + (f" ({address[0].rstrip('.,;)')})" if address else "")


def open_index(
    root: str | Path,
    layout: str = "auto",
    split: str | None = None,
    strict: bool = True,
    classes: LabelMap | None = None,
    labels: str | None = None,
    skip: bool = False,
) -> ClipIndex:
    """Index a data set.

    Args:
        root: Its folder, see :func:`find_folder`; of a single clip, its video or the folder of its frames.
        layout: ``auto``, which takes the first layout that matches, or a name in :func:`layouts`.
        split: Name of a split, if the layout has splits.
        strict: Whether problems are raised; otherwise they are in the index, for whoever lists them.
        classes: The classes of a single clip, or of a folder in the package's own layout, that has neither labels nor a
            classes.yaml; None: it is refused.
        labels: Folder of the labels of a single clip.
        skip: Whether to leave out clips that are broken, instead of raising.

    Returns:
        The clips, with every labelled frame as a keyframe.

    Raises:
        DataError: If the folder is missing or does not have the layout.
    """
    known = layouts()
    try:
        root = find_folder(root, or_file=True)
    except DataError as error:
        if layout not in known:
            raise
        raise DataError(f"{error}. {_expected(known[layout])}") from error
    if layout == "auto":
        tried = {CLIP: clip} if root.is_file() else known
        found = [name for name, candidate in tried.items() if candidate.matches(root)]
        if not found and root.is_file():
            raise DataError(f"{root} is no video that can be read: expected one, or a folder")
        if not found:
            listed = "\n".join(f"  {name}: {summary(candidate)}" for name, candidate in known.items())
            raise DataError(f"{root} has no layout that is known. Expected one of\n{listed}")
        layout = found[0]
    check_choice("layout", layout, ["auto", *known], "; is the package that registers it installed?", DataError)
    if (root.is_file() and layout != CLIP) or not known[layout].matches(root):
        raise DataError(f"{root} does not have the layout {layout!r}. {_expected(known[layout])}")
    if labels is not None and layout != CLIP:
        raise DataError(
            f"--labels goes with a video or a folder of frames, but {root} has the layout {layout!r}, which says where "
            "its labels are"
        )
    if layout == CLIP:
        index = clip.read_index(root, split, classes, Path(labels) if labels is not None else None)
    elif layout == "folder":
        index = folder.read_index(root, split, classes)
    else:  # the others know their classes
        index = known[layout].read_index(root, split)
    index = _named_well(index)
    found = [*index.problems, *([] if skip else index.broken.values())]
    if strict and found:
        more = len(found) - 1
        others = (
            f"; and {more} more problem{'s' if more > 1 else ''}, which `wrp data check {root}` lists" if more else ""
        )
        raise DataError(f"{found[0]}{others}")
    return index


def _named_well(index: ClipIndex) -> ClipIndex:
    """Take out clips whose names, or those of their frames, cannot stand on a line of a list."""
    broken = dict(index.broken)
    for one in index.clips:
        for name in (one.name, *(frame.stem for frame in one.frames)):
            if not is_plain(name):
                broken[one.name] = (
                    f"clip {one.name!r} has a name that cannot be written in a list, {name!r}: it has a line break "
                    "or another control character, or is no UTF-8; rename it"
                )
                break
    if len(broken) == len(index.broken):
        return index
    return replace(index, clips=tuple(one for one in index.clips if one.name not in broken), broken=broken)
