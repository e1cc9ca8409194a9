"""Errors that a user can correct."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class WrpError(Exception):
    """A mistake that the user can correct.

    The message says what was given, what was expected and what to do, with the path of any file concerned.

    Example:
        >>> raise WrpError("there is no checkpoint teacher.ckpt")
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: there is no checkpoint teacher.ckpt
    """


class DataError(WrpError):
    """A file or folder that is missing, unreadable, or does not match its layout.

    Example:
        >>> issubclass(DataError, WrpError)
        True
    """


def in_short(error: BaseException) -> str:
    """Return the message of an error on one line of at most 300 characters, or its class name if it has none.

    Example:
        >>> in_short(ValueError("two   words")), in_short(KeyError())
        ('two words', 'KeyError')
    """
    return " ".join(str(error).split())[:300] or type(error).__name__


# Similarity, from 0 to 1, from which on a name counts as a misspelling of another.
NEAR = 0.7


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a name is probably a misspelling of; None if none is similar.

    Example:
        >>> nearest("num_clases", ["num_classes", "root"]), nearest("x", ["num_classes", "root"])
        ('num_classes', None)
    """
    return next(iter(get_close_matches(name, known, 1, NEAR)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests a known name; empty if none is similar.

    Example:
        >>> did_you_mean("num_clases", ["num_classes", "root"])
        '; did you mean num_classes?'
    """
    meant = nearest(name, known)
    return "" if meant is None else f"; did you mean {meant}?"
