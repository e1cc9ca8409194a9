"""Working ahead: the next item is made while the last one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def prefetch(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, each begun in another thread as soon as the one before is handed out.

    Worth it where making an item lets go of the interpreter, as OpenCV and numpy do.
    """
    with ThreadPoolExecutor(1, "wrp-ahead") as worker:
        coming = worker.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = worker.submit(next, items, _END)
            yield item
