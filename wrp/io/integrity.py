"""Whether the file of an image holds all the pixels that its header promises: decoders fill in missing ones."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import simplejpeg
from PIL import Image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Channels of a pixel by the colour type of a PNG.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

# First row and column and the steps between rows and columns of the seven passes of Adam7 (PNG specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))

# Number of bytes that are inflated at a time, to be counted.
_INFLATED = 1 << 16

# Markers of JPEG (ITU-T T.81, table B.1).
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_RESTARTS = range(0xD0, 0xD8)

# libjpeg's only warning that may mean no loss: what stands between the last pixel and the end of the image.
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def refuse_cut(content: bytes, kind: str) -> None:
    """Raise ValueError unless a file holds every pixel that its header promises.

    Args:
        content: The file.
        kind: ``PNG``, ``JPEG`` or ``PPM``.
    """
    {"PNG": _check_png, "JPEG": _check_jpeg, "PPM": _check_ppm}[kind](content)


def _check_png(content: bytes) -> None:
    """Compare the checksums of all chunks, and the number of inflated bytes with that of the rows."""
    inflater = zlib.decompressobj()
    expected = found = 0
    for kind, chunk in _png_chunks(content):
        if kind == b"IHDR":
            if expected:
                raise ValueError("it has two headers")
            expected = _png_bytes(*struct.unpack(">IIBBBBB", chunk))
        elif kind == b"IDAT":
            while chunk and found < expected:
                found += len(inflater.decompress(chunk, _INFLATED))
                chunk = inflater.unconsumed_tail
    if found < expected:
        raise ValueError(f"its pixels are cut short: {found:,} bytes of {expected:,} are there")


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG up to its end, each as its kind and its content."""
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        head = content[at : at + 8]
        if len(head) < 8:
            raise ValueError("it is cut short: its end is missing")
        size, kind = struct.unpack(">I4s", head)
        chunk, check = content[at + 8 : at + 8 + size], content[at + 8 + size : at + 12 + size]
        if len(check) < 4:
            raise ValueError(f"it is cut short in its part {kind!r}")
        if zlib.crc32(kind + chunk) != int.from_bytes(check, "big"):
            raise ValueError(f"the checksum of its part {kind!r} is wrong")
        yield kind, chunk
        at += 12 + size


def _png_bytes(width: int, height: int, depth: int, color: int, *more: int) -> int:
    """Return the bytes of all rows, each with the number of its filter in front."""
    bits = depth * _PNG_CHANNELS.get(color, 0)
    passes = _ADAM7 if more[-1] else ((0, 0, 1, 1),)
    total = 0
    for row, column, down, across in passes:
        rows, columns = -(-(height - row) // down), -(-(width - column) // across)
        if rows > 0 and columns > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _check_jpeg(content: bytes) -> None:
    """Let a decoder that reports libjpeg's warnings decode all blocks, and look for passes that are missing."""
    content = _refuse_missing_scans(content)
    try:
        color = simplejpeg.decode_jpeg_header(content)[2]
    except ValueError:  # of a sampling that has no name there, or damaged, which Pillow reports
        _refuse_room_for_more(content)
        return
    warning = _warning(content, color)
    if warning is not None and (extra := _EXTRANEOUS.search(warning)):
        # Only the first warning is reported. Without these bytes, it is the next one.
        end = _end_of_jpeg(content)
        warning = _warning(content[: end - int(extra[1])] + content[end:], color)
    if warning is not None:
        raise ValueError(f"its pixels are cut short or damaged: {warning}")


def _warning(content: bytes, color: str) -> str | None:
    """Return the first warning or error of libjpeg in decoding all blocks of a JPEG of these colours, or None."""
    try:
        # Without the conversion of colours, which not all of them have.
        simplejpeg.decode_jpeg(content, colorspace="CMYK" if color in ("CMYK", "YCCK") else "GRAY", fastdct=True)
    except ValueError as error:
        return str(error)
    return None


def _refuse_room_for_more(content: bytes) -> None:
    """Raise ValueError if more data in front of the end would be decoded: then the file lacks pixels."""
    if b"\xff\xdd" in content[: content.find(b"\xff\xda")]:  # then more data would be passed over
        raise ValueError("it has restart markers and a rare sampling of colours, so that cuts cannot be found")
    end = _end_of_jpeg(content)
    with (
        Image.open(BytesIO(content), formats=["JPEG"]) as image,
        Image.open(BytesIO(content[:end] + bytes(range(128)) + content[end:]), formats=["JPEG"]) as longer,
    ):
        if image.tobytes() != longer.tobytes():
            raise ValueError("its pixels are cut short")


def _end_of_jpeg(content: bytes) -> int:
    """Return where the marker of the end begins."""
    at = 2
    for _, begin, segment in _jpeg_segments(content):
        at = begin + len(segment)
    while content[at + 1] != _EOI or content[at] != 0xFF:  # a scan's data
        at = content.index(b"\xff", at + 1)
    return at


def _refuse_missing_scans(content: bytes) -> bytes:
    """Raise ValueError if scans are missing, which no decoder reports: a file may end after any of them.

    Returns:
        The file, in which all scans of a sequential JPEG claim all coefficients: decoders read them so in any case, but
        warn of other claims, and then of nothing else.
    """
    corrected = bytearray(content)
    missing: dict[int, set[int]] = {}  # of each component, the coefficients that are not there to their last bit
    progressive = False
    for marker, at, segment in _jpeg_segments(content):
        if marker in _FRAMES:
            if marker not in (*_SEQUENTIAL, _PROGRESSIVE):
                raise ValueError("its coding is one of arithmetic or without loss, of which cuts cannot be found")
            progressive = marker == _PROGRESSIVE
            components = segment[6 : 6 + 3 * segment[5] : 3]
            missing = {component: set(range(64)) for component in components}
        elif marker == _SOS:
            count = segment[0]
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            if not progressive:
                first, last, bits = 0, 63, 0
                corrected[at + 1 + 2 * count : at + 4 + 2 * count] = bytes((first, last, bits))
            for component in segment[1 : 1 + 2 * count : 2]:
                if not bits & 15:  # low half: the bits that are left to later scans
                    missing.get(component, set()).difference_update(range(first, last + 1))
            if not any(missing.values()):
                return bytes(corrected)
    raise ValueError("it is cut short: scans of its coefficients are missing")


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the segments of a JPEG up to its end: marker, where the content begins, and the content."""
    at = 2
    while True:
        at = content.find(b"\xff", at)
        if at < 0 or at + 1 >= len(content):
            raise ValueError("it is cut short: its end is missing")
        marker = content[at + 1]
        if marker in (0, _SOI, 1, *_RESTARTS):  # in the data of a scan
            at += 2
            continue
        if marker == 0xFF:  # any number of these may stand before a marker
            at += 1
            continue
        if marker == _EOI:
            return
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + size]
        if size < 2 or len(segment) < size - 2:
            raise ValueError("it is cut short in its headers")
        yield marker, at + 4, segment
        at += 2 + size


def _check_ppm(content: bytes) -> None:
    """Refuse numbers in digits whose last one may be cut, as nothing follows it. Pillow counts all others."""
    if content[:2] in (b"P2", b"P3") and not content[-1:].isspace():
        raise ValueError("nothing stands behind its last number, which may be cut short: end it with a line break")
