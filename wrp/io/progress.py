"""A progress bar whose loop stops on a signal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from wrp.io.stopping import check_stop

Item = TypeVar("Item")


def progress(items: Iterable[Item], **how: Any) -> Iterator[Item]:
    """Yield the items, with a bar on standard error that counts them.

    Args:
        items: The items.
        how: Options of tqdm.

    Raises:
        BaseException: The exception of a signal that was received, see :mod:`wrp.io.stopping`, before the next item.
    """
    for item in tqdm(items, **how):
        check_stop()
        yield item
