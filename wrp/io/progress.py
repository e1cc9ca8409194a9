"""Progress of long loops: a bar on a terminal, a line now and then elsewhere; and loops that stop on a signal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar

from lightning_utilities.core.rank_zero import rank_zero_only
from tqdm import tqdm

from wrp.io.stopping import check_stop

Item = TypeVar("Item")

# Seconds between the lines in a file or a pipe: a loop that ends before writes none.
LINE_EVERY = 30.0


def progress(items: Iterable[Item], **how: Any) -> Iterator[Item]:
    """Yield the items, with a bar on standard error that counts them in the first process of a run.

    Args:
        items: The items.
        how: Options of tqdm.

    Raises:
        BaseException: The exception of a signal that was received, see :mod:`wrp.io.stopping`, before the next item.
    """
    with make_bar(iterable=items, **how) as bar:
        for item in bar:
            check_stop()
            yield item


def make_bar(**how: Any) -> tqdm[Any]:
    """Make a bar on standard error; where that is no terminal, it writes a line every half a minute instead.

    Args:
        how: Options of tqdm. In all processes of a run but the first one, the bar is disabled.

    Example:
        >>> with make_bar(desc="Reading", total=3, disable=True) as bar:
        ...     bar.update()
    """
    if rank() > 0:
        how["disable"] = True
    if sys.stderr.isatty():
        return tqdm(**how)
    return _Lines(**{"delay": LINE_EVERY, **how, "mininterval": LINE_EVERY, "maxinterval": LINE_EVERY, "ncols": 0})


class _Lines(tqdm):
    """A bar for files and pipes: whole lines, none to overwrite another."""

    disable: bool

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Return what writes a line."""

        def write(text: str) -> None:
            if text.strip():
                file.write(f"{text.strip()}\n")
                file.flush()

        return write

    def moveto(self, n: int) -> None:
        """Stay: a line is written where the last one ended, also while another bar is open."""

    def close(self) -> None:
        """Write nothing more: what follows tells that the loop has ended."""
        if self.disable:
            return
        self.disable = True
        self._decr_instances(self)


def rank() -> int:
    """Return the number of this process among those of a run, 0 for the first one, which speaks for all."""
    return getattr(rank_zero_only, "rank", None) or 0  # Lightning sets it when it starts the processes
