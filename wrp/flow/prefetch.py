"""Prefetching: the next item is made while the last one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def prefetch(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield the same items in the same order, each begun in another thread as soon as the one before is yielded.

    Worth it where making an item releases the interpreter's lock, as OpenCV and numpy do.

    Example:
        >>> list(prefetch(iter([1, 2, 3])))
        [1, 2, 3]
    """
    with ThreadPoolExecutor(1, "wrp-prefetch") as worker:
        coming = worker.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = worker.submit(next, items, _END)
            yield item
