"""Opening files of unknown origin: they are checked before they are decoded, and refused if they are damaged."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageOps

from wrp.errors import DataError
from wrp.io.integrity import refuse_cut

# No others: Pillow recognises formats by their content, and passes PostScript to a program that runs it.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM")

# Decoders of these fill in what is missing; those of the others report it.
FILLED_IN = ("PNG", "JPEG", "PPM")

ORIENTATION = 0x0112
"""The EXIF tag of the orientation, 1 for upright."""

# Larger images are refused before they are decoded: a small file can expand to gigabytes.
MAX_PIXELS = 64_000_000

# Memory of the machine, in bytes, for each pixel of an image that is read: several frames, flow and probabilities are
# held at once.
BYTES_PER_PIXEL = 64


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of bounded size whose file is complete, for as long as the block lasts.

    Raises:
        DataError: If the file is missing, damaged, too large, or of another format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (6, 4)).save(Path(folder, "0.png"))
        ...     with opened_image(Path(folder, "0.png")) as image:
        ...         image.format, image.size
        ('PNG', (6, 4))
    """
    with _refusing(path):
        content = read_content(path)
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            check_size(path, image.width, image.height)
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if kind in FILLED_IN:
                refuse_cut(content, kind)
            yield image


@contextmanager
def opened_header(path: Path) -> Iterator[Image.Image]:
    """Open an image of bounded size without reading its pixels, which may be damaged, for as long as the block lasts.

    Raises:
        DataError: If the file is missing, its header is damaged, or it is too large or of another format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (6, 4)).save(Path(folder, "0.png"))
        ...     with opened_header(Path(folder, "0.png")) as image:
        ...         image.size
        (6, 4)
    """
    with _refusing(path), Image.open(path, formats=FORMATS) as image:
        check_size(path, image.width, image.height)
        yield image


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Raise DataError for whatever opening or reading an image raises in the block."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise DataError(f"{path} cannot be read as an image ({', '.join(FORMATS)}): {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """Return an image as its EXIF orientation wants it to be seen, as all viewers do.

    Example:
        >>> turned = Image.new("L", (6, 4))
        >>> turned.getexif()[ORIENTATION] = 6
        >>> upright(turned).size
        (4, 6)
    """
    return ImageOps.exif_transpose(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width in pixels of :func:`upright`, as far as the header tells them; no pixel is decoded.

    A PNG may have its orientation behind its pixels, which is not seen here.

    Example:
        >>> upright_size(Image.new("L", (6, 4)))
        (4, 6)
    """
    # Not image.getexif(): that of a PNG decodes the pixels. A TIFF's size is upright already.
    turned = image.format != "TIFF" and Image.Image.getexif(image).get(ORIENTATION) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise DataError if an image or a video has no pixels, or too many to be decoded.

    Example:
        >>> check_size(Path("0.png"), width=640, height=480)
        >>> check_size(Path("0.png"), width=640, height=0)
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: 0.png: 640×0 pixels are more than the 64,000,000 that are read, or none
    """
    most = min(MAX_PIXELS, _memory() // BYTES_PER_PIXEL)
    if not 0 < width * height <= most:
        raise DataError(f"{path}: {width}×{height} pixels are more than the {most:,} that are read, or none")


def read_content(path: Path) -> bytes:
    """Read a file that is held in memory as a whole.

    Raises:
        DataError: If it cannot be read, is no regular file (a pipe or a device may never end), or is larger than a
            quarter of the machine's memory.

    Example:
        >>> read_content(Path("/dev/zero"))
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: /dev/zero is no regular file
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > (most := _memory() // 4):
            raise DataError(f"{path} holds {size:,} bytes, more than the {most:,} that are read at once")
        try:
            return file.read()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes.

    Raises:
        DataError: If it cannot be opened, or is no regular file: a pipe or a device may never end.

    Example:
        >>> open_regular(Path("/dev/zero"))
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: /dev/zero is no regular file
    """
    try:
        file = open(path, "rb", opener=_at_once)  # noqa: SIM115  # the caller closes it
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise DataError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{path} is no regular file")
    return file


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for anybody who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _memory() -> int:
    """Return the bytes of the machine's memory, or a guess where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return 2**33


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 if its byte order mark says so; the mark is left out.

    Raises:
        DataError: If the file cannot be read, or is of another encoding.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "train.txt")
        ...     _ = path.write_bytes("straße".encode("utf-16"))
        ...     read_text(path)
        'straße'
    """
    content = read_content(path)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8") from error


def check_ratio(path: Path, packed: int, unpacked: int) -> None:
    """Raise DataError if a file would unpack to many times its size: to more than a hundred times, and a gigabyte.

    Args:
        path: The file, for the message.
        packed: Its size in bytes.
        unpacked: The bytes that it says it unpacks to.

    Example:
        >>> check_ratio(Path("labels.zip"), packed=1_000, unpacked=50_000_000)
    """
    if unpacked > 100 * packed + 2**30:
        raise DataError(f"{path} holds {packed:,} bytes, which would unpack to {unpacked:,}; unpack it yourself")


def check_archive(path: Path) -> None:
    """Raise ValueError if a file of ``torch.save`` does not match its checksums, which ``torch.load`` ignores.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.zeros(2)}, Path(folder, "teacher.ckpt"))
        ...     check_archive(Path(folder, "teacher.ckpt"))
    """
    with path.open("rb") as file:
        start = file.read(2)
        if not start:
            raise ValueError("it is empty")
        if start != b"PK":  # from before PyTorch 1.6, without checksums
            return
    with zipfile.ZipFile(path) as archive:
        check_ratio(path, path.stat().st_size, sum(entry.file_size for entry in archive.infolist()))
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"its part {damaged} is damaged")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read the object that a JSON file holds.

    Args:
        path: The file.
        remedy: What to do if it is damaged, for the message.

    Raises:
        DataError: If it cannot be read, or holds no object.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "settings.json").write_text('{"layout": "folder"}')
        ...     read_json(Path(folder, "settings.json"), "make the run again")
        {'layout': 'folder'}
    """
    try:
        content = parse_json(read_content(path).decode("utf-8"))
    except (DataError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (it holds a {type(content).__name__}); {remedy}")
    return content


def parse_json(text: str) -> Any:
    """Parse a JSON text; raise ValueError if it is malformed or nested too deeply.

    Example:
        >>> parse_json('{"classes": [0, 1]}')
        {'classes': [0, 1]}
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """Parse a YAML text into plain values; raise ValueError if it is malformed or has aliases.

    A few lines of aliases can expand to gigabytes.

    Example:
        >>> parse_yaml("ignore: [0, 255]")
        {'ignore': [0, 255]}
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases (*), which are not read")
        return yaml.safe_load(text)
    except ValueError:
        raise
    except Exception as error:  # PyYAML raises YAMLError, RecursionError, and what its values' constructors raise
        raise ValueError(str(error).strip() or type(error).__name__) from error
