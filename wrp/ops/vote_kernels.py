"""The loops of votes and blends for :mod:`wrp.ops.compiled`, see :mod:`wrp.ops.kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from wrp.ops.kernels import jit
from wrp.types import IGNORE_INDEX

_ZERO, _ONE, _NO_CLASS = np.float32(0), np.float32(1), np.uint8(IGNORE_INDEX)


@jit
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


@jit
def _hear(said: Any, weight: Any, share: Any, lowest: Any, highest: Any, known: Any) -> None:
    """Extend the range of classes, and the votes for all of them, by a row (W,)."""
    for column in range(len(said)):
        label = said[column]
        lowest[column] = min(lowest[column], label)
        highest[column] = max(highest[column], label if label != _NO_CLASS else np.uint8(0))
    for column in range(len(said)):
        known[column] += share * weight[column] if said[column] != _NO_CLASS else _ZERO


@jit
def _join(lowest: Any, highest: Any, known: Any, share: Any, least: Any, greatest: Any, everyone: Any) -> None:
    """Extend ranges and votes (W,) by others."""
    for column in range(len(lowest)):
        least[column] = min(least[column], lowest[column])
        greatest[column] = max(greatest[column], highest[column])
    for column in range(len(lowest)):
        everyone[column] += share * known[column]


@jit
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


@jit
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


@jit
def blend(start: int, stop: int, labels: Any, weights: Any, beside: Any, chosen: Any, confidence: Any) -> None:
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
            if total - best >= best:  # the others may have agreed on a third
                winner, best = _strongest(labels, weights, row, column, beside, votes)
            chosen[row, column], confidence[row, column] = winner, min(best / total, _ONE)


@jit
def elect(start: int, stop: int, labels: Any, ranks: Any, shares: Any, chosen: Any, share: Any) -> None:
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
            for column in range(width):
                known[column] |= agreeing[column]
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
