"""Layouts of data sets: how the files of each are organised, one module per layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.data.layouts.base import Layout
    from wrp.data.layouts.registry import LAYOUTS, find_folder, open_index

__getattr__, __dir__ = lazy(
    __name__,
    {
        "LAYOUTS": "registry",
        "Layout": "base",
        "find_folder": "registry",
        "open_index": "registry",
    },
)

__all__ = [
    "LAYOUTS",
    "Layout",
    "find_folder",
    "open_index",
]
