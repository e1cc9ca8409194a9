"""A folder that is filled under a hidden name, and by the next call where one was stopped; items made for it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from wrp.errors import DataError, WrpError
from wrp.io.locking import locked
from wrp.io.opening import parse_json, read_json
from wrp.io.writing import follow_links, make_folder, names_in, remove_leftovers, take_place, write_json

logger = logging.getLogger("wrp")

Source = TypeVar("Source")

MADE_OF, ITEMS = ".made-of.json", ".items.jsonl"

_MISSING = object()


@contextmanager
def resumed_folder(path: Path, made_of: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to fill, ``.<name>.part``; it takes the name ``path`` once the block has ended.

    What a call has left that was stopped is in it, if that call was made of the same. After a WrpError nothing is left.

    Args:
        path: The folder, new or empty.
        made_of: What its content depends on, as JSON can hold it.

    Raises:
        WrpError: If ``path`` holds something already, or another process is filling it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with resumed_folder(Path(folder, "export"), {"format": "voc"}) as part:
        ...         (part / "labels.json").touch()
        ...     [found.name for found in Path(folder, "export").iterdir()]
        ['labels.json']
    """
    path = follow_links(path).absolute()
    if path.exists() and not (path.is_dir() and not names_in(path)):
        raise WrpError(f"{path} is there already; choose another folder, or delete it")
    part = path.with_name(f".{path.name}.part")
    make_folder(part)
    with locked(part):
        remove_leftovers(part)
        if names_in(part) and _recorded(part) != made_of:
            _empty(part)
        elif len(names_in(part)) > 1:
            logger.info("Going on in %s with what a call that was stopped has left", part)
        write_json(part / MADE_OF, made_of)
        try:
            yield part
        except WrpError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        for name in (MADE_OF, ".lock"):
            (part / name).unlink(missing_ok=True)
        take_place(part, path)


def resumed_items(
    folder: Path, sources: Iterable[Source], make: Callable[[Source], Any]
) -> Iterator[tuple[Source, Any]]:
    """Yield each source with what is made of it; what a call that was stopped has made is not made again.

    Items are kept in a file until all are made. Only one is in memory.

    Args:
        folder: The folder that :func:`resumed_folder` yields.
        sources: What items are made of, in the order that they had in the call that was stopped.
        make: Returns an item as JSON can hold it; the files that belong to the item are written before it returns.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = next(resumed_items(Path(folder), "ab", str.upper))
        ...     first, list(resumed_items(Path(folder), "ab", lambda text: text + "!"))
        (('a', 'A'), [('a', 'A'), ('b', 'b!')])
    """
    path = folder / ITEMS
    with path.open("r+b" if path.is_file() else "w+b") as file:
        made = _whole_items(file)
        for source in sources:
            item = next(made, _MISSING)
            if item is _MISSING:
                item = make(source)
                file.write(json.dumps(item).encode() + b"\n")
                file.flush()  # a process that is killed loses nothing
            yield source, item
    path.unlink()


def _whole_items(file: BinaryIO) -> Iterator[Any]:
    """Yield the items of a file, and cut off what was half-written."""
    end = 0
    for line in iter(file.readline, b""):
        try:
            item = parse_json(line.decode())
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        yield item
        end += len(line)
    file.seek(end)
    file.truncate()


def _recorded(part: Path) -> Any:
    try:
        return read_json(part / MADE_OF, "it is made again") if (part / MADE_OF).is_file() else None
    except DataError:
        return None


def _empty(part: Path) -> None:
    for found in part.iterdir():
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif found.name != ".lock":
            found.unlink()
