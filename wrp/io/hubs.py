"""What may be asked of a hub: what the user has named, and not what a checkpoint alone names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from wrp.errors import WrpError

_named: ContextVar[frozenset[str] | None] = ContextVar("named", default=None)


@contextmanager
def hubs_limited(named: Iterable[str] = ()) -> Iterator[None]:
    """Within the block, :func:`check_hub` refuses everything but these names: hyper-parameters of a file are in use."""
    token = _named.set(frozenset(named))
    try:
        yield
    finally:
        _named.reset(token)


def check_hub(name: str, what: str) -> None:
    """Raise WrpError where a hub would be asked for what only a checkpoint names.

    Args:
        name: What is asked for, as the user would name it.
        what: What it is, for the message.
    """
    named = _named.get()
    if named is not None and name not in named:
        raise WrpError(
            f"the hyper-parameters name {what} {name!r}, which a hub would be asked for; if you trust them, name it in "
            "the configuration as well, or make the module in Python and pass it instead of its checkpoint"
        )


def texts_in(value: Any) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)
