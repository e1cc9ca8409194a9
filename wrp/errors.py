"""What goes wrong by a user's mistake."""

from __future__ import annotations


class WrpError(Exception):
    """A user's mistake, told in one message: what was got, what was expected, what to do, with the path."""


class DataError(WrpError):
    """A file or folder is missing, unreadable, or does not hold what its layout promises."""


def in_short(error: BaseException) -> str:
    """What an error says, in one short line; its kind, where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
