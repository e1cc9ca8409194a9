"""A bar for whatever takes long, which can be told to stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from wrp.io.stopping import check_stop

Item = TypeVar("Item")


def progress(items: Iterable[Item], **how: Any) -> Iterator[Item]:
    """The items, with a bar on standard error that counts them; ``how`` is tqdm's.

    Raises:
        BaseException: What a signal asks for, see :mod:`wrp.io.stopping`, before the next item.
    """
    for item in tqdm(items, **how):
        check_stop()
        yield item
