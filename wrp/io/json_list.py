"""Reading a JSON file that holds long lists, item by item."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from wrp.errors import DataError
from wrp.io.opening import open_regular

# Characters that are read at a time; an item that is longer is read in ever larger pieces.
CHUNK = 1 << 16

_SPACE = re.compile(r"[ \t\r\n]*")


def read_json_list(path: Path) -> Iterator[Any]:
    """Yield the items of the list that a JSON file holds, in UTF-8 or, with its mark, UTF-16; only one is in memory.

    Raises:
        DataError: If the file cannot be read, or is of another encoding.
        ValueError: If it is malformed, nested too deeply, or holds something else; items before that are yielded.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "tasks.json").write_text('[{"id": 1}, {"id": 2}]')
        ...     [task["id"] for task in read_json_list(Path(folder, "tasks.json"))]
        [1, 2]
    """
    with _opened(path) as text:
        yield from _items(text)
        text.end()


def read_json_lists(path: Path, keys: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the items of some lists of the object that a JSON file holds, as :func:`read_json_list` does.

    Args:
        path: The file.
        keys: The names of the lists. Their order is that of the file; what has other names is left out.

    Yields:
        The name of a list, and an item of it.

    Raises:
        DataError: If the file cannot be read, or is of another encoding.
        ValueError: As :func:`read_json_list`, and if a list is missing, or is there twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.json").write_text('{"info": {}, "images": [{"id": 1}], "annotations": []}')
        ...     list(read_json_lists(Path(folder, "a.json"), ("images", "annotations")))
        [('images', {'id': 1})]
    """
    with _opened(path) as text:
        missing = set(keys)
        text.expect("{")
        for key in text.separated("}"):
            if not isinstance(key, str):
                raise ValueError(f"the name of a member is a text, got {key!r}")
            text.expect(":")
            if key not in keys:
                text.item()
                continue
            if key not in missing:
                raise ValueError(f"it has the list {key!r} twice")
            missing.remove(key)
            for item in _items(text):
                yield key, item
        text.end()
        if missing:
            raise ValueError(f"it has no list {min(missing)!r}")


@contextmanager
def _opened(path: Path) -> Iterator[_Text]:
    try:
        with open_regular(path) as binary:
            encoding = "utf-16" if binary.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            binary.seek(0)
            with TextIOWrapper(binary, encoding=encoding) as file:
                yield _Text(iter(lambda: file.read(CHUNK), ""))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as a text: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _items(text: _Text) -> Iterator[Any]:
    if text.take() != "[":
        raise ValueError("it holds no list")
    yield from text.separated("]")


class _Text:
    """A text that comes in pieces.

    What has been used is forgotten when more is read, not item by item: that would copy what is left each time.
    """

    def __init__(self, pieces: Iterator[str]) -> None:
        self.pieces = pieces
        self.buffer = ""
        self.used = 0
        self.ended = False

    def more(self) -> None:
        """Read at least as much again, so that trying again and again takes time in proportion to the length."""
        parts = [self.buffer[self.used :]]
        self.used = 0
        wanted = max(1, len(parts[0]))
        while wanted > 0 and not self.ended:
            part = next(self.pieces, "")
            self.ended = not part
            parts.append(part)
            wanted -= len(part)
        self.buffer = "".join(parts)

    def peek(self) -> str:
        """Return the next character that is no space, and skip the spaces; empty at the end."""
        while True:
            space = _SPACE.match(self.buffer, self.used)
            self.used = space.end() if space is not None else self.used
            if self.used < len(self.buffer) or self.ended:
                return self.buffer[self.used : self.used + 1]
            self.more()

    def take(self) -> str:
        """Return that character, and skip it."""
        found = self.peek()
        self.used += len(found)
        return found

    def expect(self, character: str) -> None:
        """Skip a character; raise ValueError if it is another one."""
        if (found := self.take()) != character:
            raise ValueError(f"{character!r} is expected, got {found!r}")

    def end(self) -> None:
        """Raise ValueError if something follows."""
        if self.peek():
            raise ValueError("something follows the end")

    def item(self) -> Any:
        """Return the next value, and skip it."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.used)
            except json.JSONDecodeError:
                if self.ended:
                    raise
            else:
                # What ends here, or before one of these, may be the beginning of a longer number.
                if self.ended or self.buffer[end : end + 1] not in ("", ".", "e", "E"):
                    self.used = end
                    return value
            self.more()

    def separated(self, closing: str) -> Iterator[Any]:
        """Yield values with commas between them, up to a character that closes them."""
        if self.peek() == closing:
            self.take()
            return
        while True:
            yield self.item()
            after = self.take()
            if after == closing:
                return
            if after != ",":
                raise ValueError(f"a comma is expected between items, got {after!r}")


_DECODER = json.JSONDecoder()
