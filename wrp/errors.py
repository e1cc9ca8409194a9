"""Errors that a user can correct."""

from __future__ import annotations


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
