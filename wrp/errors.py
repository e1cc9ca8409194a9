"""Errors that a user can correct."""

from __future__ import annotations

import re
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


def listed(names: Iterable[str], most: int = 8) -> str:
    """List names in a sentence: the first ones, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_utf8(name: str) -> bool:
    r"""Tell whether a name can be written as UTF-8; those of files may have other bytes, which Python keeps.

    Example:
        >>> is_utf8("straße"), is_utf8("stra\udcdfe")
        (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")


def is_plain(name: str) -> bool:
    r"""Tell whether a name can stand on a line of a list and in XML: it is UTF-8, and has no control characters.

    Example:
        >>> is_plain("straße 車"), is_plain("a\nb"), is_plain("a\x1b[2J"), is_plain("")
        (True, False, False, False)
    """
    return bool(name) and is_utf8(name) and _UNPRINTABLE.search(name) is None


# Characters that change what a terminal shows, other than the ends of lines and tabulators.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def inert(text: str) -> str:
    r"""Escape the characters of a text by which a name could make a terminal do or show something else.

    Example:
        >>> inert("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


# Similarity, from 0 to 1, from which on a name counts as a misspelling of another: two of three letters.
NEAR = 0.66


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


def check_choice(
    what: str, given: object, known: Iterable[str], or_else: str = "", kind: type[Exception] = WrpError
) -> None:
    """Raise an error if a value is none of those that can be chosen; it suggests the one that is probably meant.

    Args:
        what: What is chosen, for the message.
        given: The value.
        known: The values that there are.
        or_else: What else may be given, for the message.
        kind: Class of the error.

    Example:
        >>> check_choice("flow", "dsi", ["dis-fast", "dis"], ", or the path of a class")
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: unknown flow 'dsi'; did you mean dis? Expected one of dis-fast, dis, or the path of a class
    """
    known = list(known)
    if given in known:
        return
    meant = did_you_mean(str(given), known)
    expected = f"{' Expected' if meant else ', expected'} one of {', '.join(known)}{or_else}"
    raise kind(f"unknown {what} {given!r}{meant}{expected}")
