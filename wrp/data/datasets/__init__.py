"""Data sets: one small module for each layout, with ``matches(root)`` and ``read_index(root, split)``."""

from __future__ import annotations

from pathlib import Path

from wrp.data.clips import ClipIndex
from wrp.data.datasets import camvid, davis, folder
from wrp.types import DataError

LAYOUTS = {"folder": folder, "camvid": camvid, "davis": davis}


def open_index(root: str | Path, layout: str = "auto", split: str | None = None) -> ClipIndex:
    """Index a data set.

    Args:
        root: Its folder.
        layout: ``auto``, ``folder``, ``camvid`` or ``davis``.
        split: Name of a split, where the layout has splits.

    Raises:
        DataError: If the folder is missing or does not have the layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    if layout == "auto":
        found = [name for name, module in LAYOUTS.items() if module.matches(root)]
        if not found:
            raise DataError(
                f"{root} has no layout that is known: expected frames/<clip>/ with labels/<clip>/ and classes.yaml, "
                "CamVid's val/ with valannot/, or DAVIS' JPEGImages/480p/"
            )
        layout = found[0]
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}, expected auto, {', '.join(LAYOUTS)}")
    if not LAYOUTS[layout].matches(root):
        raise DataError(
            f"{root} does not have the layout {layout!r}: {(LAYOUTS[layout].__doc__ or '').splitlines()[0]}"
        )
    return LAYOUTS[layout].read_index(root, split)
