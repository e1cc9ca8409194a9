"""Opening files of strangers: looked at before they are decoded, and refused when they are damaged."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from wrp.errors import DataError
from wrp.io.integrity import refuse_cut

# No others: Pillow tells formats by their content, and hands PostScript to a program that runs it.
FORMATS = ("PNG", "JPEG", "PPM")

# Larger images are refused before they are decoded: a small file can expand to gigabytes.
MAX_PIXELS = 64_000_000


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image of bounded size whose file is whole, for as long as the block lasts.

    Raises:
        DataError: If the file is missing, damaged, too large, or of another format.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            check_size(path, image.width, image.height)
            refuse_cut(content, "JPEG" if image.format == "MPO" else str(image.format))
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise DataError(f"{path} cannot be read as an image ({', '.join(FORMATS)}): {error}") from error


def check_size(path: Path, width: int, height: int) -> None:
    """Raise DataError if an image or a video has no pixels, or too many to be decoded."""
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(f"{path}: {width}×{height} pixels are more than the {MAX_PIXELS:,} that are read, or none")


def read_text(path: Path) -> str:
    """A text file in UTF-8; DataError if it cannot be read, or is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a text: {error}") from error


def check_archive(path: Path) -> None:
    """Raise ValueError if a file of ``torch.save`` does not fit its checksums, which ``torch.load`` ignores."""
    with path.open("rb") as file:
        start = file.read(2)
        if not start:
            raise ValueError("it is empty")
        if start != b"PK":  # from before PyTorch 1.6, without checksums
            return
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"its part {damaged} is damaged")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        remedy: What to do where it is damaged, for the message.

    Raises:
        DataError: If it cannot be read, or holds something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (it holds a {type(content).__name__}); {remedy}")
    return content


def parse_json(text: str) -> Any:
    """What a JSON text says; ValueError if it is none, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text; ValueError if it is none, or has aliases: a few lines of them make gigabytes."""
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases (*), which are not read")
        return yaml.safe_load(text)
    except ValueError:
        raise
    except Exception as error:  # PyYAML raises YAMLError, RecursionError, and what its values' constructors raise
        raise ValueError(str(error).strip() or type(error).__name__) from error
