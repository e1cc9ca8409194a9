"""Intervals of every shape, small networks that stand in for trained ones, and the names of all methods."""

from __future__ import annotations

from collections.abc import Sequence

from wrp.propagation.methods import METHODS as KNOWN
from wrp.structures import ClipBatch
from wrp.testing import BrightnessTeacher, IdentityRefiner, textured_interval
from wrp.testing.methods import CLASSES, SIZE, intervals

__all__ = ["CLASSES", "INTERVALS", "METHODS", "SIZE", "BrightnessTeacher", "IdentityRefiner", "stretch"]

METHODS = [*KNOWN, *(f"{name}:{which}" for name, kind in KNOWN.items() for which in sorted(kind.works_from))]
INTERVALS = intervals()


def stretch(keyframes: Sequence[int], first: int, last: int, queries: tuple[int, int]) -> ClipBatch:
    """Frames first … last of a sliding texture, with labels that slide along."""
    return textured_interval(keyframes, range(first, last + 1), range(*queries))
