"""The parser of the commands that are not LightningCLI's: a mistake is one line that names the nearest option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from wrp.errors import WrpError, did_you_mean

# How argparse names a word that is none of the choices, with the choices.
_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class StrictParser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and whose errors are :class:`~wrp.errors.WrpError`.

    Example:
        >>> parser = StrictParser(prog="wrp report")
        >>> _ = parser.add_argument("--overlay")
        >>> parser.parse_args(["--over", "x.mp4"])
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: unrecognized argument --over; did you mean --overlay? `wrp report --help` shows all
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments, all of which must be known: here, as only the parser of a command knows its options."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            self._refuse(f"unrecognized argument {word}", did_you_mean(word, known) if word.startswith("-") else "")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raise a WrpError instead of printing the usage and leaving the program."""
        meant = ""
        if choice := _CHOICE.search(message):
            meant = did_you_mean(choice[1], re.findall(r"[\w.+-]+", choice[2]))
            message = message.partition(" (choose from")[0] if meant else message  # not behind a long list
        self._refuse(message, meant)

    def _refuse(self, message: str, meant: str) -> NoReturn:
        raise WrpError(f"{message}{meant or ';'} `{self.prog} --help` shows all")
