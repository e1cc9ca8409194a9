"""Stopping on a signal: it raises wherever the program is, and is checked again at every frame.

Python drops what a signal's handler raises while a generator or an object is finalised: the run would go on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM, as an exception: files being written are finished, and what was opened is closed.

    Example:
        >>> with stoppable():
        ...     signal.raise_signal(signal.SIGTERM)
        Traceback (most recent call last):
            ...
        wrp.io.stopping.Terminated
    """


_REASONS: dict[int, type[BaseException]] = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}

# The signals that were received, while the block of :func:`stoppable` lasts.
_told: list[int] = []


def check_stop() -> None:
    """Raise the exception of a signal that was received, in case it was dropped; call this at every frame."""
    if _told:
        raise _REASONS[_told[0]]


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` and SIGINT KeyboardInterrupt within the block, at its end at the latest.

    Lightning calls these handlers in addition to its own.
    """
    if threading.current_thread() is not threading.main_thread():  # other threads may not set handlers of signals
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
    except (Exception, SystemExit):  # a consequence of the signal, such as the end of a loader's process
        check_stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _told.clear()
