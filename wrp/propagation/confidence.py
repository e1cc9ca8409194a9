"""Calibration of the confidence of propagated labels: counted at held-out labels, fitted, and kept in a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wrp.errors import DataError, WrpError
from wrp.io.opening import parse_json, read_content
from wrp.metrics.calibration import BINS, LEVELS, pixels_by_confidence, total_confidence
from wrp.metrics.propagation import PropagationScore
from wrp.propagation.audit import NUMBERS
from wrp.propagation.calibration import Calibration, fit_calibration

ConfidenceCounts = dict[str, dict[str, list[int]]]
"""Counts by method, as JSON can hold them: for each bin of confidence the number of ``pixels``, the number of ``right``
ones and the total ``confidence``, as whole numbers (see :mod:`wrp.metrics.calibration`), and the ``distances`` of the
frames from the keyframes; the ``confusion`` of their labels, C rows of C + 1 numbers; and the number of pixels and of
right ones by ``levels`` of the confidence, see :func:`~wrp.metrics.calibration.pixels_by_level`; and the
``contradictions`` of the label, see :func:`~wrp.propagation.audit.as_numbers`."""


def counts_of(
    score: PropagationScore,
    methods: Sequence[str],
    distances: Mapping[str, list[int]],
    levels: Mapping[str, torch.Tensor],
    contradictions: Mapping[str, list[int]],
) -> ConfidenceCounts:
    """Extract from a score of held-out frames the counts for a calibration.

    Args:
        score: The score of the frames.
        methods: The methods, in the order of the score's rows.
        distances: By method, the distance of each frame to the nearest keyframe, in frames.
        levels: By method, the pixels of all frames by level of their confidence, (2, 256) int64.
        contradictions: By method, those of the frames' own labels, as whole numbers; methods without may be left out.
    """
    counts: ConfidenceCounts = {}
    for row, method in enumerate(methods):
        pixels, right = pixels_by_confidence(score.by_confidence[row].cpu())
        told = {"pixels": pixels, "right": right, "confidence": score.confidence[row].cpu()}
        told |= {"confusion": score.matrix[row].sum(0).flatten().cpu(), "levels": levels[method].flatten().cpu()}
        counts[method] = {"distances": distances[method], "contradictions": contradictions.get(method, [])}
        counts[method] |= {key: found.tolist() for key, found in told.items()}
    return counts


def fit_confidence(counted: Sequence[ConfidenceCounts], methods: Sequence[str]) -> dict[str, Calibration]:
    """Fit the calibration of each method from counts at several labels; methods that labelled no pixel are left out."""
    lines = {method: _line(_summed(counted, method).sum(0), _distances(counted, method)) for method in methods}
    return {method: line for method, line in lines.items() if line is not None}


def fit_without(counted: Sequence[ConfidenceCounts], method: str, left_out: Iterable[int]) -> list[Calibration | None]:
    """Fit the calibration of a method from counts at all labels but one, for each of some labels.

    Args:
        counted: The counts at each label.
        method: The method.
        left_out: The numbers of the labels that are left out in turn.

    Returns:
        The calibrations; None where the others have no pixel.
    """
    each, distances = _summed(counted, method), _distances(counted, method)
    total = each.sum(0)
    lines = []
    for number in left_out:
        own = counted[number][method]["distances"]
        lines.append(_line(total - each[number], [(sum(distances) - sum(own)) / max(1, len(distances) - len(own))]))
    return lines


def _summed(counted: Sequence[ConfidenceCounts], method: str) -> torch.Tensor:
    """Return pixels, right ones and total confidence by bin at each of N labels, (N, 3, bins) int64."""
    kinds = ("pixels", "right", "confidence")
    found = [[counts[method][key] for key in kinds] for counts in counted]
    return torch.tensor(found, dtype=torch.long).view(-1, len(kinds), BINS)


def _distances(counted: Sequence[ConfidenceCounts], method: str) -> list[int]:
    return [distance for counts in counted for distance in counts[method]["distances"]]


def _line(sums: torch.Tensor, distances: Sequence[float]) -> Calibration | None:
    """Fit a calibration to pixels, right ones and total confidence by bin, (3, bins); None if there is no pixel."""
    pixels, right, confidence = sums
    if not pixels.any():
        return None
    mean = total_confidence(confidence) / pixels.clamp(min=1)
    return fit_calibration(mean, right, pixels, sum(distances) / len(distances))


def levels_as_written(
    counts: Mapping[str, list[int]], line: Calibration | None, near: bool = True
) -> tuple[list[int], list[int]]:
    """Return the number of pixels and of right ones by level of the confidence as a run writes it: calibrated.

    Args:
        counts: The counts of one method at one label.
        line: Its calibration; None: it has none.
        near: Whether the method works from keyframes: the nearer they are, the less its confidence is changed.

    Example:
        >>> levels = [0] * 2 * LEVELS
        >>> levels[128], levels[LEVELS + 128] = 10, 3
        >>> pixels, right = levels_as_written({"levels": levels, "distances": [5]}, Calibration(-1.0, 1.0, 5))
        >>> pixels.index(10), right.index(3)
        (69, 69)
        >>> near = {"levels": levels, "distances": [2]}
        >>> [levels_as_written(near, Calibration(-1.0, 1.0, 5), of)[0].index(10) for of in (True, False)]
        [90, 69]
    """
    levels = torch.tensor(counts["levels"], dtype=torch.long).view(2, LEVELS)
    if line is not None:
        confidence = line(torch.arange(LEVELS) / (LEVELS - 1), counts["distances"][0] if near else line.distance)
        place = (confidence * (LEVELS - 1)).round().long()
        levels = torch.zeros_like(levels).scatter_add_(1, place.expand(2, -1), levels)
    pixels, right = levels.tolist()
    return pixels, right


def is_counted(counts: Any, methods: Sequence[str], num_classes: int) -> bool:
    """Tell whether a value has the form of :data:`ConfidenceCounts` for exactly these methods and C classes.

    Such values come from :meth:`~wrp.propagation.module.PropagationModule.count_confidence`.
    """
    kinds = {"pixels": BINS, "right": BINS, "confidence": BINS, "distances": None}
    kinds |= {"confusion": num_classes * (num_classes + 1), "levels": 2 * LEVELS, "contradictions": None}

    def is_whole(found: Any) -> bool:
        return (
            isinstance(found, dict)
            and set(found) == set(kinds)
            and all(
                isinstance(found[kind], list)
                and (length is None or len(found[kind]) == length)
                and all(type(number) is int for number in found[kind])
                for kind, length in kinds.items()
            )
            and len(found["contradictions"]) % NUMBERS == 0
        )

    return isinstance(counts, dict) and set(counts) == set(methods) and all(map(is_whole, counts.values()))


def read_calibration(path: str) -> dict[str, Calibration]:
    """Read the calibration of each method from a JSON file: ``shift``, ``slope`` and ``distance`` by method.

    Raises:
        WrpError: If the file cannot be read, or is not such a file.
    """
    try:
        content = parse_json(read_content(Path(path)).decode("utf-8"))
        lines = {str(method): {k: float(v) for k, v in line.items()} for method, line in content.items()}
        if not all(math.isfinite(v) and (k != "distance" or v > 0) for line in lines.values() for k, v in line.items()):
            raise ValueError("a number of it is out of range")
        return {method: Calibration(**line) for method, line in lines.items()}
    except (DataError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise WrpError(f"{path} cannot be read as a calibration: {error}") from error
