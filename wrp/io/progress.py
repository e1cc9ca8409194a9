"""A progress bar whose loop stops on a signal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lightning_utilities.core.rank_zero import rank_zero_only
from tqdm import tqdm

from wrp.io.stopping import check_stop

Item = TypeVar("Item")


def progress(items: Iterable[Item], **how: Any) -> Iterator[Item]:
    """Yield the items, with a bar on standard error that counts them in the first process of a run.

    Args:
        items: The items.
        how: Options of tqdm.

    Raises:
        BaseException: The exception of a signal that was received, see :mod:`wrp.io.stopping`, before the next item.
    """
    if rank() > 0:
        how["disable"] = True
    for item in tqdm(items, **how):
        check_stop()
        yield item


def rank() -> int:
    """Return the number of this process among those of a run, 0 for the first one, which speaks for all."""
    return getattr(rank_zero_only, "rank", None) or 0  # Lightning sets it when it starts the processes
