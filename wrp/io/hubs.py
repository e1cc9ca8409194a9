"""Limits on downloads from model hubs: what the user has named is allowed, what only a checkpoint names is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from wrp.errors import WrpError

_named: ContextVar[frozenset[str] | None] = ContextVar("named", default=None)


@contextmanager
def hubs_limited(named: Iterable[str] = ()) -> Iterator[None]:
    """Let :func:`check_hub` refuse all but these names within the block, which uses a file's hyper-parameters."""
    token = _named.set(frozenset(named))
    try:
        yield
    finally:
        _named.reset(token)


def check_hub(name: str, what: str) -> None:
    """Raise WrpError if something would be downloaded from a hub that only a checkpoint names.

    Args:
        name: Name of the download, as the user would give it.
        what: Its kind, for the message.
    """
    named = _named.get()
    if named is not None and name not in named:
        raise WrpError(
            f"the hyper-parameters name {what} {name!r}, to be downloaded from a hub; if you trust them, name it in "
            "the configuration as well, or make the module in Python and pass it instead of its checkpoint"
        )


def texts_in(value: Any) -> Iterator[str]:
    """Yield all strings in plain values: those of lists, tuples and dictionaries, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)
