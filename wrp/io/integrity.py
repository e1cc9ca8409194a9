"""Whether the file of an image or a video holds all that its headers promise: decoders fill in what is missing."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

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

# Kinds of the outermost boxes of MP4 and QuickTime (ISO/IEC 14496-12).
_BOXES = tuple(
    b"ftyp moov mdat free skip wide pnot PICT styp sidx ssix emsg prft moof mfra meta uuid udta pdin".split()
)

# What begins the header and the segment of a Matroska file (RFC 9559).
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"

# How GIF, PNG and streams of JPEGs begin and end.
_MARKS = {b"GIF8": b";", _PNG_SIGNATURE: b"IEND\xaeB`\x82", b"\xff\xd8": b"\xff\xd9"}

# Bytes at the end of a file in which the mark of its end is looked for, behind which zeros may stand.
_TAIL = 1 << 16

# Size of a part of an AVI that a program wrote in one go.
_UNKNOWN_RIFF = 0xFFFFFFFF

# Bytes that an encoder may have left in front of the end of a JPEG.
_FEW = 16


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
        end = _last_scan(content).stop
        counts = _extraneous(content[:end], int(extra[1]))
        warning = None if None in (_warning(content[: end - n] + content[end:], color) for n in counts) else warning
    if warning is not None:
        raise ValueError(f"its pixels are cut short or damaged: {warning}")


def _extraneous(content: bytes, count: int) -> tuple[int, ...]:
    """Return how many bytes at the end may not belong to the pixels: a few that are reported, or padding of one value.

    Where the picture is cut and other data follow, a decoder takes the first of them for pixels, and does not need the
    rest up to the next marker either. So padding has to begin where the pixels end, whose last bytes may look like it.
    """
    run = _run_at_end(content)
    return (count,) if max(count, run) <= _FEW else (run, run - 1, run - 2)


def _run_at_end(content: bytes) -> int:
    """Return how many bytes at the end have the value of the last one."""
    return len(content) - len(content.rstrip(content[-1:]))


def _warning(content: bytes, color: str) -> str | None:
    """Return the first warning or error of libjpeg in decoding all blocks of a JPEG of these colours, or None."""
    try:
        # Without the conversion of colours, which not all of them have.
        simplejpeg.decode_jpeg(content, colorspace="CMYK" if color in ("CMYK", "YCCK") else "GRAY", fastdct=True)
    except ValueError as error:
        return str(error)
    return None


def _refuse_room_for_more(content: bytes) -> None:
    """Raise ValueError if more data in front of the end would be decoded: then the file lacks pixels.

    If the last data are not needed, it lacks them as well, and other data stand in their place.
    """
    if b"\xff\xdd" in content[: content.find(b"\xff\xda")]:  # then more data would be passed over
        raise ValueError("it has restart markers and a rare sampling of colours, so that cuts cannot be found")
    data = _last_scan(content)
    end = data.stop
    padding = _run_at_end(content[:end]) - 1  # the last byte of the pixels may have the same value
    last = end - (padding if padding > _FEW else 0)
    pixels, other = _pixels(content), bytes(range(128)) + content[end:]
    fewer = max(data.start, last - _FEW - 1)
    if pixels != _pixels(content[:last] + other) or (fewer > data.start and pixels == _pixels(content[:fewer] + other)):
        raise ValueError("its pixels are cut short")


def _pixels(content: bytes) -> bytes:
    """Return the pixels of a JPEG as Pillow decodes them."""
    with Image.open(BytesIO(content), formats=["JPEG"]) as image:
        return image.tobytes()


def _last_scan(content: bytes) -> range:
    """Return where the data of the last scan begin, and where the marker of the end does."""
    at = 2
    for _, begin, segment in _jpeg_segments(content):
        at = begin + len(segment)
    start = at
    while content[at + 1] != _EOI or content[at] != 0xFF:  # a scan's data
        at = content.index(b"\xff", at + 1)
    return range(start, at)


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


def refuse_cut_video(path: Path) -> None:
    """Raise ValueError if the file of a video ends inside of a part whose size it tells, or lacks the mark of its end.

    Streams (MPEG-1, MPEG-2, transport streams, most of what encoders write) have neither: they may end anywhere.

    Args:
        path: The file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        missing = max((end - size for end in _part_ends(start, file, size)), default=0)
        tail = _read_at(file, max(0, size - _TAIL), _TAIL).rstrip(b"\0")
    if missing > 0:
        raise ValueError(f"a part of it is cut short: {missing:,} bytes are missing")
    if any(start.startswith(begin) and not tail.endswith(end) for begin, end in _MARKS.items()):
        raise ValueError("a part of it is cut short: its end is missing")


def _part_ends(start: bytes, file: BinaryIO, size: int) -> Iterator[int]:
    """Return where the parts of a video should end, in bytes from its start."""
    if start[:4] == b"RIFF" and start[8:] == b"AVI ":
        return _riff_ends(file, size)
    if start[4:8] in _BOXES:
        return _box_ends(file, size)
    return _ebml_ends(file) if start[:4] == _EBML else iter(())


def _riff_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Yield where each part of an AVI ends; one of two gigabytes or more has several."""
    at = 0
    while at + 8 <= size:
        head = _read_at(file, at, 8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, _UNKNOWN_RIFF):  # what was never closed tells no size
            return
        yield at + 8 + length
        at += 8 + length + length % 2


def _box_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Yield where each box of an MP4 ends, up to what is none."""
    at = 0
    while at + 8 <= size:
        head = _read_at(file, at, 16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if head[4:8] not in _BOXES or length < 8:  # 0: up to the end of the file
            return
        at += length
        yield at


def _ebml_ends(file: BinaryIO) -> Iterator[int]:
    """Yield where the header and the segment of a Matroska file end, unless it was written in one go."""
    at = 0
    for mark in (_EBML, _SEGMENT):
        head = _read_at(file, at, 12)
        width = 9 - head[4].bit_length() if len(head) == 12 and head[4] else 0
        if head[:4] != mark or not width:
            return
        every = (1 << 7 * width) - 1
        length = int.from_bytes(head[4 : 4 + width], "big") & every
        if length == every:  # unknown
            return
        at += 4 + width + length
        yield at


def _read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
