"""The protocol of a layout."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from wrp.data.index import ClipIndex


class Layout(Protocol):
    """How the files of a data set are organised: a module or an object with these two functions.

    The first line of its docstring describes it in messages and in ``wrp data layouts``. Another package registers one
    by the entry point ``wrp.layouts``; see :mod:`wrp.data.layouts.davis` for a short example.

    Example:
        >>> from wrp.data.layouts import davis
        >>> layout: Layout = davis
        >>> layout.matches(Path("no-such-folder"))
        False
    """

    __doc__: str | None

    def matches(self, root: Path, /) -> bool:
        """Tell whether a folder has this layout, from the names in it alone."""
        ...

    def read_index(self, root: Path, split: str | None = None, /) -> ClipIndex:
        """Index the clips of a folder that matches, or those of one split.

        Raises:
            DataError: If a part of the layout is missing, or there is no such split.
        """
        ...
