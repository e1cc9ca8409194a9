"""Damage to files, and plain values that nobody expects."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from hypothesis import strategies as st

EDITS = ("flip", "set", "cut", "insert", "remove", "zero", "double")


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file after one to four things have happened to it."""
    data = bytearray(content)
    for edit in draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=4)):
        at, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(1, 40))
        part = data[at : at + length]
        if edit == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif edit == "cut":
            del data[at:]
        elif edit == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif edit == "remove":
            del data[at : at + length]
        elif edit == "zero":
            data[at : at + length] = bytes(len(part))
        elif edit == "double":
            data[at:at] = part
    return bytes(data)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG, with the checksum that belongs to it."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, color: int, rows: bytes, palette: bytes = b"", interlace: int = 0
) -> bytes:
    """A PNG that says this; ``rows`` are its pixels, each row behind the number of its filter."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    parts = chunk(b"IHDR", header) + (chunk(b"PLTE", palette) if palette else b"")
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
"""What YAML and JSON can say."""


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """Plain values of which one, somewhere inside, is another or missing."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
        return draw(plain)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    copy = value.copy()
    if draw(st.integers(0, 5)) == 0:
        del copy[key]
    else:
        copy[key] = draw(altered(value[key]))
    return copy
