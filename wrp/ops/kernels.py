"""The loops of :mod:`wrp.ops.compiled`, for numba: each works on the rows from ``start`` to ``stop``.

Maps are in single precision. "Places" are indices into a plane (H · W,). Loops over the columns of a row are kept apart
and simple, and begin at 0, so that the compiler can do several columns at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from wrp.ops import formulas
from wrp.ops.formulas import LOST
from wrp.types import IGNORE_INDEX

# What is compiled is kept by the content of this file alone, so it holds the hash of formulas.py; a test compares.
COMPILED_WITH = "429b6e87c43464c6"

# A child of a process that compiles while it forks would wait for ever for the one who does.
if hasattr(os, "register_at_fork"):  # where processes fork
    _let_go = global_compiler_lock.release
    os.register_at_fork(before=global_compiler_lock.acquire, after_in_parent=_let_go, after_in_child=_let_go)

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep the result on disk where there is a place for it."""
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **how)
    except RuntimeError:  # neither the folder of the package nor the user's own can be written
        return numba.njit(function, **how)


_inside, _agree = jit(formulas.inside), jit(formulas.agree)


@jit
def _room(width: int) -> Any:
    """Memory for what :func:`_locate` says about a row."""
    return np.empty((2, width), np.int32), np.empty((2, width), np.float32), np.empty(width, np.bool_)


@jit
def _whole(value: Any, length: Any) -> Any:
    """A coordinate within the frame, 0 where it is not a number."""
    kept = min(max(value, _ZERO), np.float32(length - 1))
    return kept if kept == kept else _ZERO


@jit
def _finite(value: Any) -> Any:
    """As in :func:`wrp.ops.warp.finite`, and what is farther than :data:`LOST` as if it were."""
    return min(max(value, np.float32(-LOST)), np.float32(LOST)) if value == value else np.float32(LOST)


@jit
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


@jit
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


@jit
def compose(start: int, stop: int, near: Any, far: Any, result: Any) -> None:
    """``near`` (2, H, W), ``far`` (2, H · W), ``result`` (2, H, W)."""
    height, width = near.shape[1:]
    places, shares, within = _room(width)
    sampled = np.empty(width, np.float32)
    for row in range(start, stop):
        _locate(near, row, places, shares, within)
        for axis in range(2):
            _sample(far[axis], height, places, shares, sampled)
            for column in range(width):
                result[axis, row, column] = near[axis, row, column] + sampled[column]


@jit
def extend(
    start: int, stop: int, flow: Any, error: Any, near: Any, back: Any, alpha: Any, beta: Any, result: Any, failed: Any
) -> None:
    """``flow``, ``back`` (2, H · W), ``error`` (H · W,), ``near``, ``result`` (2, H, W), ``failed`` (H, W)."""
    height, width = near.shape[1:]
    right, bottom = np.float32(width - 0.5), np.float32(height - 0.5)
    places, shares, within = _room(width)
    sampled = np.empty((4, width), np.float32)
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


@jit
def look(start: int, stop: int, labels: Any, flow: Any, outside: Any, result: Any) -> None:
    """Nearest samples; ``labels`` (H · W,), ``flow`` (2, H, W), ``result`` (H, W)."""
    width = flow.shape[2]
    places, shares, within = _room(width)
    for row in range(start, stop):
        _locate(flow, row, places, shares, within)
        for column in range(width):
            result[row, column] = labels[np.uintp(places[1, column])] if within[column] else outside


@jit
def differ(start: int, stop: int, image: Any, frame: Any, flow: Any, result: Any) -> None:
    """``image`` (3, H · W) in [0, 1], ``frame`` (3, H, W) uint8, ``flow`` (2, H, W), ``result`` (H, W)."""
    height, width = flow.shape[1:]
    places, shares, within = _room(width)
    sampled = np.empty((3, width), np.float32)
    for row in range(start, stop):
        _locate(flow, row, places, shares, within)
        for colour in range(3):
            _sample(image[colour], height, places, shares, sampled[colour])
        for column in range(width):
            total = _ZERO
            for colour in range(3):
                total += abs(np.float32(frame[colour, row, column]) / np.float32(255) - sampled[colour, column])
            result[row, column] = total


@jit
def _add(values: Any, total: Any) -> None:
    for column in range(len(values)):
        total[column] += values[column]


@jit
def mean_around(start: int, stop: int, values: Any, reach: int, scale: Any, result: Any) -> None:
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


@jit
def push(start: int, stop: int, labels: Any, flow: Any, landed: Any) -> None:
    """``labels`` (H, W), ``flow`` (2, H, W), ``landed`` (H, W), 0 at first: one more than the greatest class."""
    height, width = labels.shape
    right, bottom = np.float32(width - 0.5), np.float32(height - 0.5)
    last_row, last_column = np.uint32(height - 1), np.uint32(width - 1)
    for row in range(start, stop):
        for column in range(width):
            x, y = flow[0, row, column] + np.float32(column), flow[1, row, column] + np.float32(row)
            if _inside(x, y, right, bottom) and labels[row, column] != IGNORE_INDEX:
                # Just below the far edge, the sum is rounded up to it.
                to_row, to_column = min(np.uint32(y + _HALF), last_row), min(np.uint32(x + _HALF), last_column)
                rank = labels[row, column] + np.uint8(1)
                landed[to_row, to_column] = max(landed[to_row, to_column], rank)
