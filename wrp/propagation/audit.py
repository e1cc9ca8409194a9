"""Audit the keyframes (ours): find where a keyframe's own label contradicts those of its neighbours.

Each keyframe between two others is labelled as if it had no label, see :class:`~wrp.data.items.HeldOutItems`. Where
what its neighbours say is sure, and another class than its own label, one of them is wrong: either motion, or somebody
who has labelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from wrp.propagation.calibration import Calibration
from wrp.propagation.methods.base import PropagationMethod
from wrp.structures import IGNORE_INDEX

# Chosen by experiments/suggest/audit.py, as what follows: confidence of a pixel, before the calibration of the run, and
# of a region that is listed, in the mean and calibrated.
LEAST_CONFIDENCE = 0.5
SURE = 0.9
# Ratio of the frame's width: bands along borders that are as thin are errors of motion and of a labeller's hand.
BAND = 0.01
# Ratio of the frame's pixels.
LEAST_PIXELS = 0.001

PER_MILLE = 1000
NUMBERS = 8
"""Whole numbers of which a contradiction is written, see :func:`as_numbers`."""


@dataclass(frozen=True)
class Contradiction:
    """A region of a keyframe that has one class by its own label and another by its neighbours'.

    Attributes:
        own: Index of the class by its own label.
        other: Index of the class by the labels of its neighbours.
        box: Left, top, width and height of the region, in pixels.
        pixels: Number of its pixels.
        confidence: Mean confidence of the neighbours' labels there, in [0, 1].

    Example:
        >>> Contradiction(own=0, other=3, box=(20, 40, 12, 9), pixels=90, confidence=0.97).box
        (20, 40, 12, 9)
    """

    own: int
    other: int
    box: tuple[int, int, int, int]
    pixels: int
    confidence: float


def find_contradictions(
    own: np.ndarray,
    other: np.ndarray,
    confidence: np.ndarray,
    least: float = LEAST_CONFIDENCE,
    band: float = BAND,
    pixels: float = LEAST_PIXELS,
) -> list[Contradiction]:
    """Find the regions in which two labels of a frame contradict each other.

    Args:
        own: Class indices of the frame's own label, (H, W) uint8; 255 contradicts nothing.
        other: Class indices by its neighbours, (H, W) uint8.
        confidence: Confidence of ``other``, (H, W) float32 in [0, 1].
        least: Least confidence of a pixel.
        band: Greatest width of bands along borders that do not count, as a ratio of the frame's width.
        pixels: Least number of pixels of a region, as a ratio of the frame's.

    Returns:
        The regions, the largest first.

    Example:
        >>> own, other = np.zeros((2, 40, 60), np.uint8)
        >>> other[10:20, 30:50], other[:, :1] = 2, 1
        >>> find_contradictions(own, other, np.full((40, 60), 0.95, np.float32))
        [Contradiction(own=0, other=2, box=(30, 10, 20, 10), pixels=196, confidence=0.95)]
    """
    height, width = own.shape
    differs = (own != other) & (own != IGNORE_INDEX) & (other != IGNORE_INDEX) & (confidence >= least)
    size = 2 * max(1, round(band * width / 2)) + 1  # at least one pixel on either side
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    found = []
    for pair in np.unique(own[differs].astype(np.int32) << 8 | other[differs]).tolist():
        mine, theirs = pair >> 8, pair & 255
        region = (differs & (own == mine) & (other == theirs)).astype(np.uint8)
        region = cv2.morphologyEx(region, cv2.MORPH_OPEN, kernel)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
        for number in range(1, count):
            left, top, across, down, area = stats[number].tolist()
            if area < pixels * height * width:
                continue
            inside = parts[top : top + down, left : left + across] == number
            mean = float(confidence[top : top + down, left : left + across][inside].mean())
            found.append(Contradiction(mine, theirs, (left, top, across, down), area, round(mean, 3)))
    return sorted(found, key=lambda one: -one.pixels)


def surest(found: Iterable[Contradiction], line: Calibration | None, distance: float) -> list[Contradiction]:
    """Calibrate the confidence of contradictions, and keep those that are sure.

    Args:
        found: The contradictions of one label.
        line: The calibration of the method that tells, by other labels; None: there are none.
        distance: Distance of the frame from its neighbours, in frames.

    Example:
        >>> found = [Contradiction(0, 3, (20, 40, 12, 9), 90, confidence) for confidence in (0.7, 0.85)]
        >>> [one.confidence for one in surest(found, Calibration(0.0, 1.5, 8.0), 8)]
        [0.931]
    """
    found = list(found)
    if line is not None:
        told = line(torch.tensor([one.confidence for one in found]), distance).tolist()
        found = [replace(one, confidence=round(sure, 3)) for one, sure in zip(found, told, strict=True)]
    return [one for one in found if one.confidence >= SURE]


def auditor(methods: Mapping[str, PropagationMethod]) -> str:
    """Return the name of the method by which keyframes are audited: the last one without networks, else the result.

    A network has learned from the labels that are to be audited, mistakes among them.

    Args:
        methods: The methods by name.

    Example:
        >>> from wrp.propagation.methods import make_methods
        >>> auditor(make_methods(["copy", "motion", "semantic"])), auditor(make_methods(["refine"]))
        ('motion', 'refine')
    """
    alone = [name for name, method in methods.items() if not (method.needs.teacher or method.needs.refiner)]
    return [*methods, *alone][-1]


def as_numbers(found: Iterable[Contradiction]) -> list[int]:
    """Write contradictions as whole numbers, eight for each, the confidence in thousandths.

    Example:
        >>> as_numbers([Contradiction(0, 3, (20, 40, 12, 9), 90, 0.97)])
        [0, 3, 20, 40, 12, 9, 90, 970]
    """
    rows = ((one.own, one.other, *one.box, one.pixels, round(PER_MILLE * one.confidence)) for one in found)
    return [number for row in rows for number in row]


def from_numbers(numbers: Sequence[int]) -> list[Contradiction]:
    """Return the contradictions of :func:`as_numbers`.

    Example:
        >>> from_numbers([0, 3, 20, 40, 12, 9, 90, 970])
        [Contradiction(own=0, other=3, box=(20, 40, 12, 9), pixels=90, confidence=0.97)]
    """
    rows = [numbers[start : start + NUMBERS] for start in range(0, len(numbers), NUMBERS)]
    return [
        Contradiction(own, other, (left, top, width, height), pixels, confidence / PER_MILLE)
        for own, other, left, top, width, height, pixels, confidence in rows
    ]
