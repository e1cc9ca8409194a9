"""Items of a long file by what they belong to, kept on the disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Generic, TypeVar

from wrp.errors import DataError

Key = TypeVar("Key", bound=Hashable)


class Groups(Generic[Key]):
    """Items in groups, of which only the keys are in memory, see :func:`grouping`.

    Example:
        >>> with grouping() as masks:
        ...     for number, name in [(1, "road"), (2, "sky"), (1, "car")]:
        ...         masks.add(number, {"name": name})
        ...     list(masks), masks.items(1)
        ([1, 2], [{'name': 'road'}, {'name': 'car'}])
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last: dict[Key, int] = {}  # where the last item of each group is; there stands where the one before is
        self._end = 0

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys of the groups in the order of their first items."""
        return iter(self._last)

    def add(self, key: Key, item: Any) -> None:
        """Add an item, which JSON can hold, to a group.

        Raises:
            DataError: If the temporary file cannot be written.
        """
        line = json.dumps([self._last.get(key), item]).encode() + b"\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise DataError(
                f"a temporary file in {tempfile.gettempdir()} cannot be written: {error}; make room there, or name "
                "another folder in the environment variable TMPDIR"
            ) from error
        self._last[key] = self._end
        self._end += len(line)

    def items(self, key: Key) -> list[Any]:
        """Return the items of a group in the order in which they were added; an empty list if there are none."""
        found, place = [], self._last.get(key)
        while place is not None:
            self._file.seek(place)
            place, item = json.loads(self._file.readline())
            found.append(item)
        self._file.seek(self._end)  # where the next item is added
        return found[::-1]


@contextmanager
def grouping() -> Iterator[Groups[Any]]:
    """Yield groups that are empty, and are gone after the block."""
    with tempfile.TemporaryFile(prefix="wrp-") as file:
        yield Groups(file)
