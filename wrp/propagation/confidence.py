"""Calibration of the confidence of propagated labels: counted at held-out labels, fitted, and kept in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wrp.errors import WrpError
from wrp.io.opening import parse_json
from wrp.metrics.calibration import BINS, pixels_by_confidence, total_confidence
from wrp.metrics.propagation import PropagationScore
from wrp.propagation.calibration import Calibration, fit_calibration

ConfidenceCounts = dict[str, dict[str, list[int]]]
"""Counts by method, as JSON can hold them: for each bin of confidence the number of ``pixels``, the number of ``right``
ones and the total ``confidence``, as whole numbers (see :mod:`wrp.metrics.calibration`), and the ``distances`` of the
frames from the keyframes."""


def counts_of(score: PropagationScore, methods: Sequence[str], distances: Mapping[str, list[int]]) -> ConfidenceCounts:
    """Extract from a score of held-out frames the counts for a calibration.

    Args:
        score: The score of the frames.
        methods: The methods, in the order of the score's rows.
        distances: By method, the distance of each frame to the nearest keyframe, in frames.
    """
    counts: ConfidenceCounts = {}
    for row, method in enumerate(methods):
        pixels, right = pixels_by_confidence(score.by_confidence[row].cpu())
        told = {"pixels": pixels, "right": right, "confidence": score.confidence[row].cpu()}
        counts[method] = {"distances": distances[method]} | {key: found.tolist() for key, found in told.items()}
    return counts


def fit_confidence(counted: Sequence[ConfidenceCounts], methods: Sequence[str]) -> dict[str, Calibration]:
    """Fit the calibration of each method from counts at several labels; methods that labelled no pixel are left out."""
    fitted = {}
    for method in methods:
        of_method = [counts[method] for counts in counted]
        distances = [distance for counts in of_method for distance in counts["distances"]]
        sums = [torch.tensor([counts[key] for counts in of_method]) for key in ("pixels", "right", "confidence")]
        pixels, right, confidence = (found.sum(0) for found in sums)
        if pixels.any():
            mean = total_confidence(confidence) / pixels.clamp(min=1)
            fitted[method] = fit_calibration(mean, right, pixels, sum(distances) / len(distances))
    return fitted


def is_counted(counts: Any, methods: Sequence[str]) -> bool:
    """Tell whether a value has the form of :data:`ConfidenceCounts` for exactly these methods.

    Such values come from :meth:`~wrp.propagation.module.PropagationModule.count_confidence`.
    """
    kinds = {"pixels": BINS, "right": BINS, "confidence": BINS, "distances": None}

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
        )

    return isinstance(counts, dict) and set(counts) == set(methods) and all(map(is_whole, counts.values()))


def read_calibration(path: str) -> dict[str, Calibration]:
    """Read the calibration of each method from a JSON file: ``shift``, ``slope`` and ``distance`` by method.

    Raises:
        WrpError: If the file cannot be read, or is not such a file.
    """
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
        lines = {str(method): {k: float(v) for k, v in line.items()} for method, line in content.items()}
        if not all(math.isfinite(v) and (k != "distance" or v > 0) for line in lines.values() for k, v in line.items()):
            raise ValueError("a number of it is out of range")
        return {method: Calibration(**line) for method, line in lines.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise WrpError(f"{path} cannot be read as a calibration: {error}") from error
