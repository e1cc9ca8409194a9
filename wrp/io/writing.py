"""Writing files so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
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
"""The file that says that a folder was made by this package, see :mod:`wrp.io.folders`."""


# What systems leave in folders that nobody has put anything into, and what a job leaves that was stopped at once.
_DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini", ".lock")


def names_in(folder: Path) -> list[str]:
    """The names in a folder that make it one that is not empty; without a claim that another job makes just now."""
    names = (found.name for found in folder.iterdir())
    return sorted(name for name in names if name not in _DROPPINGS and not name.startswith(f".{MARKER}."))


@contextmanager
def replacing(path: Path, many: bool = False) -> Iterator[Path]:
    """Write to a temporary name in the folder of ``path``; it takes the name of ``path`` once the block has ended.

    A block that raises leaves ``path`` as it was and nothing beside it. What was written is on the disk when the block
    has ended, so that a machine may lose its power then; its name as well, unless it is one of ``many`` files whose
    writer calls :func:`sync_folder` in the end. A link of that name is replaced, not followed.

    Raises:
        WrpError: If there is a link between an output folder and the file.
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
    """Make a folder to write to, unless a link leads from an output folder to it: nothing is written through those.

    Links on the way to the output folder itself are the user's way to it, see :func:`follow_links`.

    Raises:
        WrpError: If there is such a link.
    """
    link = None
    for place in (folder, *folder.parents):
        if place.is_symlink():
            link = place
        elif (place / MARKER).is_file():
            if link is not None:
                refuse_link(link)
            break
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_link(path: Path) -> None:
    """Raise WrpError where a file or a folder to write to is a symbolic link: what it leads to may be anybody's."""
    if path.is_symlink():
        raise WrpError(f"{path} is a symbolic link, which nothing is written through; remove it")


def follow_links(folder: Path) -> Path:
    """A folder as it is named or, where links lead to it, where it lies, which is told."""
    place = folder.resolve()
    if place == Path(os.path.abspath(folder)):
        return folder
    logger.info("%s is %s", folder, place)
    return place


def require_writable(folder: Path) -> None:
    """Raise WrpError where a folder cannot be written to, or made, before any work is done for it."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise WrpError(f"{folder} cannot be written: {place} is a file, expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise WrpError(f"{folder} cannot be written: you may not write to {place}")


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; nothing on systems that cannot say so."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name; it takes the name ``path`` once the block has ended.

    Raises:
        WrpError: If ``path`` holds something already.
    """
    path = follow_links(path).absolute()
    if path.exists() and not (path.is_dir() and not names_in(path)):
        raise WrpError(f"{path} is there already; choose another folder, or delete it")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def take_place(temporary: Path, folder: Path) -> None:
    """Give a folder that is filled its name, also where there is one that counts as empty, see :func:`names_in`."""
    if folder.is_dir():
        for name in _DROPPINGS:
            (folder / name).unlink(missing_ok=True)
    os.replace(temporary, folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that a person can read, too."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_label(path: Path, labels: np.ndarray, label_map: LabelMap) -> None:
    """Write class indices (H, W) uint8 as an indexed PNG of ids, in the colours of the classes."""
    write_content(path, encode_label(labels, label_map))


def encode_label(labels: np.ndarray, label_map: LabelMap) -> bytes:
    """Class indices (H, W) uint8 as an indexed PNG of ids, in the colours of the classes."""
    image = Image.fromarray(label_map.decode(labels))
    image.putpalette(label_map.palette)
    return encode_image(image)


def write_image(path: Path, image: Image.Image, software: str | None = None) -> None:
    """Write a PNG, see :func:`encode_image` and :func:`write_content`."""
    write_content(path, encode_image(image, software))


def write_content(path: Path, content: bytes) -> None:
    """Write a file, one of many: whoever has written them calls :func:`sync_folder`."""
    with replacing(path, many=True) as temporary:
        temporary.write_bytes(content)


def encode_image(image: Image.Image, software: str | None = None) -> bytes:
    """A picture as PNG; ``software`` goes into it as the name of the program that made it."""
    encoded, texts = io.BytesIO(), PngInfo()
    if software is not None:
        texts.add_text("Software", software)
    image.save(encoded, format="PNG", compress_level=4, pnginfo=texts)
    return encoded.getvalue()


def checksum(content: bytes | memoryview) -> str:
    """The first 16 digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]
