"""Being told to stop: a signal raises where the program is, and is looked at again at every frame.

Python drops what a signal's handler raises while a generator or an object is finalised: the run would go on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM, as an exception: files in hand are finished, and what was opened is closed."""


_REASONS: dict[int, type[BaseException]] = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}

# The signal that has come, for as long as the block of :func:`stoppable` lasts.
_told: list[int] = []


def check_stop() -> None:
    """Raise what a signal has raised that has come, in case nobody has heard it; to be called at every frame."""
    if _told:
        raise _REASONS[_told[0]]


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block, SIGTERM raises :class:`Terminated` and SIGINT KeyboardInterrupt, at the latest in its end.

    Lightning calls these handlers besides what it does itself.
    """
    if threading.current_thread() is not threading.main_thread():  # others may not ask for signals
        yield
        return

    def stop(number: int, *_: object) -> None:
        _told.append(number)
        raise _REASONS[number]

    _told.clear()
    before = {number: signal.signal(number, stop) for number in _REASONS}
    try:
        yield
        check_stop()
    except (Exception, SystemExit):  # what came of it, as of a loader's process that was told to stop as well
        check_stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _told.clear()
