"""The loops of :mod:`wrp.ops.compiled`, for numba: each works on the rows from ``start`` to ``stop``.

Maps are in single precision. "Places" are indices into a plane (H · W,). Loops over the columns of a row are kept apart
and simple, and begin at 0, so that the compiler can do several columns at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from wrp.ops import formulas
from wrp.ops.formulas import LOST
from wrp.types import IGNORE_INDEX

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_NO_CLASS = np.uint8(IGNORE_INDEX)


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep the result on disk where there is a place for it."""
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **how)
    except RuntimeError:  # neither the folder of the package nor the user's own can be written
        return numba.njit(function, **how)


_inside, _agree = _jit(formulas.inside), _jit(formulas.agree)


@_jit
def _whole(value: Any, length: Any) -> Any:
    """A coordinate within the frame, 0 where it is not a number."""
    kept = min(max(value, _ZERO), np.float32(length - 1))
    return kept if kept == kept else _ZERO


@_jit
def _finite(value: Any) -> Any:
    """See :func:`wrp.ops.warp.finite`."""
    return min(max(value, np.float32(-LOST)), np.float32(LOST)) if value == value else np.float32(LOST)


@_jit
def _locate(flow: Any, row: int, places: Any, shares: Any, within: Any) -> None:
    """Where a row of a flow (2, H, W) leads.

    ``places`` (2, W): the upper left one of the four pixels around it, and the nearest; ``shares`` (2, W): of the right
    and of the lower ones; ``within`` (W,): in the frame.
    """
    height, width = flow.shape[1:]
    right, bottom = np.float32(width - 0.5), np.float32(height - 0.5)
    for column in range(width):
        x, y = flow[0, row, column] + np.float32(column), flow[1, row, column] + np.float32(row)
        within[column] = _inside(x, y, right, bottom)
        x, y = _whole(x, width), _whole(y, height)
        # At the far border the pixel is the right or lower one, with all of the share.
        left, upper = min(np.int32(x), max(width - 2, 0)), min(np.int32(y), max(height - 2, 0))
        shares[0, column], shares[1, column] = x - np.float32(left), y - np.float32(upper)
        places[0, column] = upper * width + left
        places[1, column] = np.int32(y + _HALF) * width + np.int32(x + _HALF)


@_jit
def _sample(plane: Any, height: int, places: Any, shares: Any, out: Any) -> None:
    """Bilinear samples (W,) of a plane."""
    width = len(out)
    onward, below = np.uintp(min(width - 1, 1)), np.uintp(width if height > 1 else 0)
    for column in range(width):
        x, y, place = shares[0, column], shares[1, column], np.uintp(places[0, column])
        both = x * y
        out[column] = (
            (_ONE - x - y + both) * plane[place]
            + (x - both) * plane[place + onward]
            + (y - both) * plane[place + below]
            + both * plane[place + below + onward]
        )


@_jit
def compose(start: int, stop: int, near: Any, far: Any, result: Any) -> None:
    """``near`` (2, H, W), ``far`` (2, H · W), ``result`` (2, H, W)."""
    height, width = near.shape[1:]
    places, shares = np.empty((2, width), np.int32), np.empty((2, width), np.float32)
    within, sampled = np.empty(width, np.bool_), np.empty(width, np.float32)
    for row in range(start, stop):
        _locate(near, row, places, shares, within)
        for axis in range(2):
            _sample(far[axis], height, places, shares, sampled)
            for column in range(width):
                result[axis, row, column] = near[axis, row, column] + sampled[column]


@_jit
def extend(
    start: int, stop: int, flow: Any, error: Any, near: Any, back: Any, alpha: Any, beta: Any, result: Any, failed: Any
) -> None:
    """``flow``, ``back`` (2, H · W), ``error`` (H · W,), ``near``, ``result`` (2, H, W), ``failed`` (H, W)."""
    height, width = near.shape[1:]
    right, bottom = np.float32(width - 0.5), np.float32(height - 0.5)
    places, shares = np.empty((2, width), np.int32), np.empty((2, width), np.float32)
    within, sampled = np.empty(width, np.bool_), np.empty((4, width), np.float32)
    for row in range(start, stop):
        _locate(near, row, places, shares, within)
        for axis in range(2):
            _sample(back[axis], height, places, shares, sampled[axis])
            _sample(flow[axis], height, places, shares, sampled[2 + axis])
        for column in range(width):
            x, y = near[0, row, column], near[1, row, column]
            agree = _agree(x, y, sampled[0, column], sampled[1, column], alpha, beta)
            x, y = _finite(x + sampled[2, column]), _finite(y + sampled[3, column])
            ends = _inside(x + np.float32(column), y + np.float32(row), right, bottom)
            result[0, row, column], result[1, row, column] = x, y
            failed[row, column] = not (within[column] & agree & ends)
        for column in range(width):
            failed[row, column] |= error[np.uintp(places[1, column])]


@_jit
def look(start: int, stop: int, labels: Any, flow: Any, outside: Any, result: Any) -> None:
    """Nearest samples; ``labels`` (H · W,), ``flow`` (2, H, W), ``result`` (H, W)."""
    width = flow.shape[2]
    places, shares = np.empty((2, width), np.int32), np.empty((2, width), np.float32)
    within = np.empty(width, np.bool_)
    for row in range(start, stop):
        _locate(flow, row, places, shares, within)
        for column in range(width):
            result[row, column] = labels[np.uintp(places[1, column])] if within[column] else outside


@_jit
def differ(start: int, stop: int, image: Any, frame: Any, flow: Any, result: Any) -> None:
    """``image`` (3, H · W) in [0, 1], ``frame`` (3, H, W) uint8, ``flow`` (2, H, W), ``result`` (H, W)."""
    height, width = flow.shape[1:]
    places, shares = np.empty((2, width), np.int32), np.empty((2, width), np.float32)
    within, sampled = np.empty(width, np.bool_), np.empty((3, width), np.float32)
    for row in range(start, stop):
        _locate(flow, row, places, shares, within)
        for colour in range(3):
            _sample(image[colour], height, places, shares, sampled[colour])
        for column in range(width):
            total = _ZERO
            for colour in range(3):
                total += abs(np.float32(frame[colour, row, column]) / np.float32(255) - sampled[colour, column])
            result[row, column] = total


@_jit
def _add(values: Any, total: Any) -> None:
    for column in range(len(values)):
        total[column] += values[column]


@_jit
def smooth(start: int, stop: int, values: Any, reach: int, scale: Any, result: Any) -> None:
    """Means of ``values`` (H, W) over the part in the frame of the square of 2 · ``reach`` + 1 pixels, by ``scale``."""
    height, width = values.shape
    total, around = np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(start, stop):
        top, bottom = max(row - reach, 0), min(row + reach + 1, height)
        total[:], around[:] = 0, 0
        for other in range(top, bottom):
            _add(values[other], total)
        _add(total, around)
        for shift in range(1, min(reach + 1, width)):
            _add(total[shift:], around[:-shift])
            _add(total[:-shift], around[shift:])
        for column in range(width):
            count = min(column + reach + 1, width) - max(column - reach, 0)
            result[row, column] = around[column] * scale / np.float32(count * (bottom - top))


@_jit
def weigh(
    start: int, stop: int, labels: Any, error: Any, photometric: Any, near: Any, odds: Any, trust: Any, result: Any
) -> None:
    """Maps (S, H, W), ``near`` (S,), ``odds`` (65536,) of the bits of a photometric error."""
    sources, _, width = labels.shape
    total = np.empty(width, np.float32)
    for row in range(start, stop):
        total[:] = 0
        for source in range(sources):
            for column in range(width):
                weight = near[source] * odds[np.uintp(photometric[source, row, column])]
                weight *= trust if error[source, row, column] else _ONE
                weight = weight if labels[source, row, column] != _NO_CLASS else _ZERO
                result[source, row, column] = weight
                total[column] += weight
        for source in range(sources):
            for column in range(width):
                result[source, row, column] /= max(total[column], np.float32(1e-12))


@_jit
def _hear(said: Any, weight: Any, share: Any, lowest: Any, highest: Any, known: Any) -> None:
    """Extend the range of classes, and the votes for all of them, by a row (W,)."""
    for column in range(len(said)):
        label = said[column]
        lowest[column] = min(lowest[column], label)
        highest[column] = max(highest[column], label if label != _NO_CLASS else np.uint8(0))
    for column in range(len(said)):
        known[column] += share * weight[column] if said[column] != _NO_CLASS else _ZERO


@_jit
def _join(lowest: Any, highest: Any, known: Any, share: Any, least: Any, greatest: Any, everyone: Any) -> None:
    """Extend ranges and votes (W,) by others."""
    for column in range(len(lowest)):
        least[column] = min(least[column], lowest[column])
        greatest[column] = max(greatest[column], highest[column])
    for column in range(len(lowest)):
        everyone[column] += share * known[column]


@_jit
def _count(said: Any, weight: Any, share: Any, beside: Any, classes: Any, votes: Any) -> None:
    """Add the votes of a row (W,) for the class of each column, those of the columns beside it included."""
    for column in range(len(votes)):
        votes[column] += share * weight[column] if said[column] == classes[column] else _ZERO
    share = share * beside
    said_left, left, said_right, right = said[:-1], weight[:-1], said[1:], weight[1:]
    classes_left, votes_left, classes_right, votes_right = classes[:-1], votes[:-1], classes[1:], votes[1:]
    for column in range(len(left)):
        votes_right[column] += share * left[column] if said_left[column] == classes_right[column] else _ZERO
    for column in range(len(right)):
        votes_left[column] += share * right[column] if said_right[column] == classes_left[column] else _ZERO


@_jit
def _strongest(labels: Any, weights: Any, row: int, column: int, beside: Any, votes: Any) -> Any:
    """The class with most votes around a pixel, the lowest of equals, and its votes; ``votes`` (256,) are zero."""
    _, height, width = labels.shape
    for other in range(max(row - 1, 0), min(row + 2, height)):
        across = _ONE if other == row else beside
        for near in range(max(column - 1, 0), min(column + 2, width)):
            share = across if near == column else across * beside
            for source in range(len(labels)):
                votes[labels[source, other, near]] += share * weights[source, other, near]
    votes[IGNORE_INDEX] = 0
    winner = votes.argmax()
    best = votes[winner]
    votes[:] = 0
    return np.uint8(winner), best


@_jit
def elect(start: int, stop: int, labels: Any, weights: Any, beside: Any, chosen: Any, confidence: Any) -> None:
    """``labels``, ``weights`` (S, H, W), ``chosen``, ``confidence`` (H, W)."""
    sources, height, width = labels.shape
    # Of the pixels above, at and below one: the range of classes, and the votes; the same of the nine pixels around it.
    lowest, highest, known = np.empty(width, np.uint8), np.empty(width, np.uint8), np.empty(width, np.float32)
    least, greatest, everyone = np.empty(width, np.uint8), np.empty(width, np.uint8), np.empty(width, np.float32)
    heard, votes = np.empty(width, np.bool_), np.zeros(256, np.float32)
    first, second = np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(start, stop):
        rows = range(max(row - 1, 0), min(row + 2, height))
        lowest[:], highest[:], known[:] = _NO_CLASS, 0, 0
        heard[:], first[:], second[:] = False, 0, 0
        for source in range(sources):
            for other in rows:
                share = _ONE if other == row else beside
                _hear(labels[source, other], weights[source, other], share, lowest, highest, known)
            said = labels[source, row]
            for column in range(width):
                heard[column] |= said[column] != _NO_CLASS
        least[:], greatest[:], everyone[:] = lowest, highest, known
        _join(lowest[:-1], highest[:-1], known[:-1], beside, least[1:], greatest[1:], everyone[1:])
        _join(lowest[1:], highest[1:], known[1:], beside, least[:-1], greatest[:-1], everyone[:-1])
        # Nearly always there are no more than these two classes around a pixel.
        for source in range(sources):
            for other in rows:
                share = _ONE if other == row else beside
                _count(labels[source, other], weights[source, other], share, beside, least, first)
                _count(labels[source, other], weights[source, other], share, beside, greatest, second)
        for column in range(width):
            winner, best, total = least[column], first[column], everyone[column]
            if not heard[column] or not total > 0:
                chosen[row, column], confidence[row, column] = _NO_CLASS, 0
                continue
            if winner == greatest[column]:
                best = total
            elif second[column] > best:
                winner, best = greatest[column], second[column]
            if total - best > best:  # the others may have agreed on a third
                winner, best = _strongest(labels, weights, row, column, beside, votes)
            chosen[row, column], confidence[row, column] = winner, min(best / total, _ONE)


@_jit
def push(start: int, stop: int, labels: Any, flow: Any, landed: Any) -> None:
    """``labels`` (H, W), ``flow`` (2, H, W), ``landed`` (H, W), 0 at first: one more than the greatest class."""
    height, width = labels.shape
    right, bottom = np.float32(width - 0.5), np.float32(height - 0.5)
    for row in range(start, stop):
        for column in range(width):
            x, y = flow[0, row, column] + np.float32(column), flow[1, row, column] + np.float32(row)
            if _inside(x, y, right, bottom) and labels[row, column] != _NO_CLASS:
                to_row, to_column = np.uintp(np.floor(y + _HALF)), np.uintp(np.floor(x + _HALF))
                rank = labels[row, column] + np.uint8(1)
                landed[to_row, to_column] = max(landed[to_row, to_column], rank)


@_jit
def poll(start: int, stop: int, labels: Any, ranks: Any, shares: Any, chosen: Any, share: Any) -> None:
    """``labels`` (S, H, W), ``ranks`` of the 2^S sets of sources, ``shares`` by set and rank, two maps (H, W)."""
    sources, _, width = labels.shape
    highest, known, agreeing = np.empty(width, np.uint8), np.empty(width, np.uint8), np.empty(width, np.uint8)
    for row in range(start, stop):
        winner = chosen[row]
        highest[:], known[:], winner[:] = 0, 0, _NO_CLASS
        for source in range(sources):
            said, own = labels[source, row], np.uint8(1 << source)
            for column in range(width):
                agreeing[column] = own if said[column] != _NO_CLASS else np.uint8(0)
            _add(agreeing, known)
            for other in range(source + 1, sources):
                also, bit = labels[other, row], np.uint8(1 << other)
                for column in range(width):
                    agree = (also[column] == said[column]) & (said[column] != _NO_CLASS)
                    agreeing[column] |= bit if agree else np.uint8(0)
            for column in range(width):
                rank = ranks[agreeing[column]]
                if rank > highest[column] or (rank == highest[column] and said[column] < winner[column]):
                    highest[column], winner[column] = rank, said[column]
        for column in range(width):
            share[row, column] = shares[np.uintp(known[column]) * np.uintp(len(ranks)) + np.uintp(highest[column])]
