"""Writing files so that a reader sees the old one or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wrp.errors import WrpError
from wrp.structures import LabelMap

logger = logging.getLogger("wrp")

MARKER = "wrp.json"
"""The file that marks a folder as made by this package, see :mod:`wrp.io.outputs`."""


# Files that systems leave in otherwise empty folders, and the lock that a job leaves when it is stopped at once.
_DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini", ".lock")

# What file systems answer that cannot synchronise a folder, or open one.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR)

# Names of files and folders that are being written.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp", re.DOTALL)

held: dict[Path, int] = {}
"""The folders that this process keeps others from writing to, each with its open lock file, see
:func:`wrp.io.locking.locked`."""


def names_in(folder: Path) -> list[str]:
    """List the names in a folder that make it not empty; the claim that another job is just writing is left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in (".DS_Store", "0.png"):
        ...         Path(folder, name).touch()
        ...     names_in(Path(folder))
        ['0.png']
    """
    names = (found.name for found in folder.iterdir())
    return sorted(name for name in names if name not in _DROPPINGS and not name.startswith(f".{MARKER}."))


@contextmanager
def replacing(path: Path, many: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` to write to; it replaces ``path`` once the block has ended.

    If the block raises, ``path`` is left as it was, and nothing is left beside it. After the block, the content is on
    the disk and survives a loss of power; the name as well, unless the file is one of ``many``, whose writer calls
    :func:`sync_folder` in the end. A link of that name is replaced, not followed.

    Args:
        path: The file.
        many: Whether it is one of many files in the folder.

    Raises:
        WrpError: If there is a link between an output folder and the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "list.txt")) as temporary:
        ...         _ = temporary.write_text("a")
        ...     [path.name for path in Path(folder).iterdir()]
        ['list.txt']
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        if not many:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> Path:
    """Create a folder to write to; refuse it if it is reached through a link inside an output folder.

    Links on the way to the output folder itself are part of the user's path, see :func:`follow_links`.

    Raises:
        WrpError: If there is such a link, or the folder is in one that was locked and has been deleted since: another
            run may be writing there now.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_folder(Path(folder, "labels", "a")).is_dir()
        True
    """
    link = None
    for place in (folder, *folder.parents):
        if place in held and not is_open(place / ".lock", held[place]):
            raise WrpError(
                f"{place} was deleted or moved while this command was writing to it; nothing more is written there: "
                "run the command again"
            )
        if place.is_symlink():
            link = place
        elif (place / MARKER).is_file():
            if link is not None:
                refuse_link(link)
            break
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_open(path: Path, handle: int) -> bool:
    """Tell whether a file is the one that is open; a file of the same name may have taken its place.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     is_open(Path(file.name), file.fileno())
        True
    """
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def refuse_link(path: Path) -> None:
    """Raise WrpError if a file or a folder to write to is a symbolic link, whose destination may be anything.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     refuse_link(Path(folder, "labels"))
    """
    if path.is_symlink():
        raise WrpError(f"{path} is a symbolic link, which nothing is written through; remove it")


def follow_links(folder: Path) -> Path:
    """Return a folder as it is named or, if links lead to it, its destination, which is logged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder).resolve()
        ...     Path(place, "link").symlink_to(place)
        ...     follow_links(place / "link") == place
        True
    """
    place = folder.resolve()
    if place == Path(os.path.abspath(folder)):
        return folder
    logger.info("%s is %s", folder, place)
    return place


def require_writable(folder: Path) -> None:
    """Raise WrpError if a folder cannot be written to, or created, before any work is done for it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     require_writable(Path(folder, "runs", "street"))
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise WrpError(f"{folder} cannot be written: {place} is a file, expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise WrpError(f"{folder} cannot be written: you may not write to {place}")


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; do nothing on systems that cannot report this.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sync_folder(Path(folder))
    """
    if os.name != "posix":
        return
    try:
        _sync(folder)
    except OSError as error:  # network and FUSE file systems, which look after names themselves
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it takes the name ``path`` once the block has ended.

    Raises:
        WrpError: If ``path`` holds something already.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with new_folder(Path(folder, "export")) as temporary:
        ...         (temporary / "labels.json").touch()
        ...     Path(folder, "export", "labels.json").is_file()
        True
    """
    path = follow_links(path).absolute()
    if path.exists() and not (path.is_dir() and not names_in(path)):
        raise WrpError(f"{path} is there already; choose another folder, or delete it")
    make_folder(path.parent)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _TEMPORARY.fullmatch(left.name) and not left.is_symlink() and _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    temporary.mkdir(parents=True)
    try:
        with _filling(temporary):
            yield temporary
            take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _filling(folder: Path) -> Iterator[None]:
    """Mark a temporary folder as one that is being filled, as long as this process lives."""
    handle = _locked(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _is_left(folder: Path) -> bool:
    """Tell whether the process that was filling a temporary folder is gone."""
    handle = _locked(folder)
    if handle is not None:
        os.close(handle)
    return handle is not None


def _locked(folder: Path) -> int | None:
    """Lock a folder, and return its open handle; None if another process has locked it, or folders have no locks."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            os.close(handle)
    return None


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes have left half-written in a folder and below it, other than in links.

    Call this only while no other process writes there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, ".report.md.0123456789ab.tmp").touch()
        ...     remove_leftovers(Path(folder))
        ...     list(Path(folder).iterdir())
        []
    """
    for place, folders, files in os.walk(folder):
        for name in filter(_TEMPORARY.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)
        for name in [name for name in folders if _TEMPORARY.fullmatch(name)]:
            folders.remove(name)
            if not Path(place, name).is_symlink():
                shutil.rmtree(Path(place, name), ignore_errors=True)


def take_place(temporary: Path, folder: Path) -> None:
    """Give a filled temporary folder its name, also if a folder of that name counts as empty, see :func:`names_in`.

    All that it holds is on the disk then, and survives a loss of power.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, ".temporary").mkdir()
        ...     take_place(Path(folder, ".temporary"), Path(folder, "street"))
        ...     Path(folder, "street").is_dir()
        True
    """
    for place, _, files in os.walk(temporary):
        for name in files:
            _sync(Path(place, name))
        sync_folder(Path(place))
    if folder.is_dir():
        for name in _DROPPINGS:
            (folder / name).unlink(missing_ok=True)
    os.replace(temporary, folder)
    sync_folder(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder, "list.txt"), "a")
        ...     Path(folder, "list.txt").read_text()
        'a'
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, indented for people to read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder, "settings.json"), {"layout": "folder"})
        ...     json.loads(Path(folder, "settings.json").read_text())
        {'layout': 'folder'}
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_label(path: Path, labels: np.ndarray, label_map: LabelMap) -> None:
    """Write class indices (H, W) uint8 as an indexed PNG of ids, in the colours of the classes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "0.png")
        ...     write_label(path, np.zeros((4, 6), np.uint8), LabelMap((7,), ("road",), ((128, 64, 128),)))
        ...     np.unique(Image.open(path)).tolist()
        [7]
    """
    write_content(path, encode_label(labels, label_map))


def encode_label(labels: np.ndarray, label_map: LabelMap) -> bytes:
    """Encode class indices (H, W) uint8 as an indexed PNG of ids, in the colours of the classes.

    Example:
        >>> encode_label(np.zeros((4, 6), np.uint8), LabelMap((7,), ("road",), ((128, 64, 128),)))[1:4]
        b'PNG'
    """
    image = Image.fromarray(label_map.decode(labels))
    image.putpalette(label_map.palette)
    return encode_image(image)


def write_image(path: Path, image: Image.Image, software: str | None = None) -> None:
    """Write a PNG, see :func:`encode_image` and :func:`write_content`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_image(Path(folder, "0.png"), Image.new("RGB", (6, 4)))
        ...     Image.open(Path(folder, "0.png")).size
        (6, 4)
    """
    write_content(path, encode_image(image, software))


def write_content(path: Path, content: bytes) -> None:
    """Write a file as one of many: the caller calls :func:`sync_folder` after the last one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_content(Path(folder, "0.bin"), b"content")
        ...     sync_folder(Path(folder))
        ...     Path(folder, "0.bin").read_bytes()
        b'content'
    """
    with replacing(path, many=True) as temporary:
        temporary.write_bytes(content)


def encode_image(image: Image.Image, software: str | None = None) -> bytes:
    """Encode a picture as PNG; ``software`` is stored in it as the name of the program that made it.

    Example:
        >>> encode_image(Image.new("L", (6, 4)), software="wrp")[1:4]
        b'PNG'
    """
    encoded, texts = io.BytesIO(), PngInfo()
    if software is not None:
        texts.add_text("Software", software)
    image.save(encoded, format="PNG", compress_level=4, pnginfo=texts)
    return encoded.getvalue()


def checksum(content: bytes | memoryview) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256.

    Example:
        >>> checksum(b"content")
        'ed7002b439e9ac84'
    """
    return hashlib.sha256(content).hexdigest()[:16]
