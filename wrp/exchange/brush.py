"""Label Studio's run-length code of brush masks.

Masks are RGBA pictures of which the last channel counts, as ``value.rle``, a list of bytes
(https://labelstud.io/tags/brushlabels). The code is that of the JavaScript library ``rle-pack``
(https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), a stream of bits, the highest first:

- 32 bits: number of words; 5 bits: bits of a word less 1; four times 4 bits: a number of bits less 1, a *size*;
- then, until all words are there: 1 bit: whether it is a run; 2 bits: which of the four sizes; as many bits: number of
  words less 1; a word, which a run repeats, or else all the words.
"""

from __future__ import annotations

import numpy as np

from wrp.errors import DataError
from wrp.exchange.base import encode_runs

CHANNELS, WORD, SIZES = 4, 8, (3, 4, 8, 16)

INSIDE = 128
"""The least value of a pixel that belongs to a mask; the edges of brushes are soft."""


def encode_brush(mask: np.ndarray) -> list[int]:
    """Encode a mask (H, W) bool as bytes, which are numbers of 0 … 255.

    Example:
        >>> encode_brush(np.array([[True, False]]))
        [0, 0, 0, 8, 57, 27, 252, 127, 241, 128, 0]
    """
    runs = encode_runs(mask) * CHANNELS
    values = np.arange(len(runs)) % 2 * 255
    longest = 1 << SIZES[-1]
    parts = -(-runs // longest)  # long runs are cut; the first one may be empty
    lengths = np.full(parts.sum(), longest)
    lengths[parts.cumsum()[parts > 0] - 1] = (runs - (parts - 1) * longest)[parts > 0]
    chosen = np.searchsorted(np.array([1 << size for size in SIZES]), lengths)
    sizes = np.array(SIZES)[chosen]
    codes = ((((4 | chosen) << sizes) | (lengths - 1)) << WORD) | np.repeat(values, parts)
    widths = 3 + sizes + WORD
    bits = np.unpackbits((codes << (32 - widths)).astype(">u4")[:, None].view(np.uint8), axis=1)
    header = f"{mask.size * CHANNELS:032b}{WORD - 1:05b}" + "".join(f"{size - 1:04b}" for size in SIZES)
    body = bits[np.arange(32) < widths[:, None]]
    packed: list[int] = np.packbits(np.concatenate([np.array(list(header), np.uint8), body])).tolist()
    return packed


def decode_brush(rle: list[int], height: int, width: int) -> np.ndarray:
    """Decode a mask (H, W) bool from bytes, which are numbers of 0 … 255.

    Raises:
        DataError: If they are no mask of this size.
        ValueError: If they are no bytes.

    Example:
        >>> decode_brush([0, 0, 0, 8, 57, 27, 252, 127, 241, 128, 0], height=1, width=2).tolist()
        [[True, False]]
    """
    if not isinstance(rle, list):
        raise ValueError(f"a brush mask is a list of bytes, got a {type(rle).__name__}")
    text = "".join(f"{byte:08b}" for byte in bytes(rle))
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(text[place - size : place], 2)

    count, word = read(32), read(5) + 1
    if count != height * width * CHANNELS or word != WORD:
        raise DataError(
            f"a brush mask holds {count} words of {word} bits; one of {width}×{height} pixels has "
            f"{height * width * CHANNELS} of {WORD}"
        )
    sizes = [read(4) + 1 for _ in range(len(SIZES))]
    words = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        is_run = read(1)
        end = done + 1 + read(sizes[read(2)])
        bits = WORD if is_run else (end - done) * WORD
        if end > count or place + bits > len(text):
            raise DataError(
                f"a brush mask ends after {done // CHANNELS} of its {height * width} pixels, or goes beyond"
            )
        if is_run:
            words[done:end] = read(WORD)
        else:
            found = np.frombuffer(text[place : place + bits].encode("ascii"), np.uint8) - ord("0")
            words[done:end] = np.packbits(found)
            place += bits
        done = end
    return words.reshape(height, width, CHANNELS)[..., -1] >= INSIDE
