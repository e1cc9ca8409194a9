"""Accept labels that need no review (ours): pixels and frames of a run of which at least a given ratio should be right.

Two limits hold at once. By the confidence alone, the expected ratio of wrong pixels among those accepted is at most
half of what is allowed, as the confidence may be too high for a new kind of video. By the keyframes that the run has
held out in turn, the ratio that was wrong there is at most what is allowed. Keyframes that its networks have learned
from are taken only where there are no others, and guarantee nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrp.data.index import ClipIndex
from wrp.errors import DataError, WrpError
from wrp.io.images import read_confidence
from wrp.io.manifest import Entry, read_manifest
from wrp.io.opening import read_json
from wrp.io.progress import progress
from wrp.metrics.calibration import LEVELS

HELD_OUT = "held_out.json"
"""File of a run: the labels that it has held out in turn, and by confidence how many of their pixels were right."""

# Ratio of the allowed errors that the confidence alone may expect; chosen by experiments/suggest/accept.py.
CAUTION = 0.5


@dataclass(frozen=True)
class Limits:
    """From which confidence on labels are accepted.

    Attributes:
        pixel: Level of the least confidence of an accepted pixel, 1 … 255; 256: none is accepted.
        frame: Greatest expected ratio of wrong pixels of an accepted frame.
        held_out: Number of keyframes that were held out in turn and from which no network has learned.
        guaranteed: Whether these keyframes guarantee the ratio of the pixels, in the mean over frames like them
            (conformal risk control, Angelopoulos et al., ICLR 2024).

    Example:
        >>> Limits(pixel=230, frame=0.02, held_out=4, guaranteed=False).pixel
        230
    """

    pixel: int
    frame: float
    held_out: int
    guaranteed: bool


@dataclass(frozen=True)
class Accepted:
    """What of a run is accepted.

    Attributes:
        limits: From which confidence on.
        frames: The accepted frames without a label of their own, as ``<clip>/<frame>``.
        others: The other ones, those first in which most is expected to be wrong.
        pixels: Ratio of the pixels of all these frames that are accepted.
        seen: Number of keyframes that were held out in turn, but from which networks have learned.

    Example:
        >>> Accepted(Limits(230, 0.02, 4, False), ("street/00001",), (), 0.9, seen=0).pixels
        0.9
    """

    limits: Limits
    frames: tuple[str, ...]
    others: tuple[str, ...]
    pixels: float
    seen: int


def least_labels(accept: float) -> int:
    """Return how many held-out labels a guarantee needs at least: 1 / (1 - accept) - 1, rounded up.

    Example:
        >>> least_labels(0.95), least_labels(0.99)
        (19, 99)
    """
    return math.ceil(round(1 / (1 - accept), 6)) - 1


def risks(pixels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return for each label the ratio of wrong pixels among those from a level on: the greatest from any higher one on.

    Args:
        pixels: Number of pixels by level of the confidence, (N, 256).
        right: Number of those that are right, (N, 256).

    Returns:
        (N, 256) float64 in [0, 1], which does not grow with the level.

    Example:
        >>> pixels, right = np.zeros((2, 1, 256))
        >>> pixels[0, [100, 200]], right[0, [100, 200]] = (50, 50), (30, 45)
        >>> risks(pixels, right)[0, [0, 101, 201]].tolist()
        [0.25, 0.1, 0.0]
    """
    above, wrong = (values[:, ::-1].cumsum(1) for values in (pixels, pixels - right))
    return np.maximum.accumulate(wrong / np.maximum(above, 1), 1)[:, ::-1]


def find_limits(
    histogram: np.ndarray,
    pixels: np.ndarray,
    right: np.ndarray,
    frames: Sequence[tuple[float, float]],
    accept: float,
    seen: bool = False,
) -> Limits:
    """Find from which confidence on at least a ratio of the labels should be right.

    Args:
        histogram: Number of pixels to accept or not, by level of their confidence, (256,).
        pixels: Number of pixels of each of N held-out labels, by level of their confidence, (N, 256).
        right: Number of those that are right, (N, 256).
        frames: Expected and true ratio of wrong pixels of each held-out label.
        accept: The ratio, in [0.5, 1).
        seen: Whether networks have learned from these labels.

    Example:
        >>> histogram, pixels, right = np.zeros(256), np.zeros((1, 256)), np.zeros((1, 256))
        >>> histogram[[128, 250]] = pixels[0, [128, 250]] = 100
        >>> right[0, [128, 250]] = 60, 99
        >>> find_limits(histogram, pixels, right, [(0.2, 0.2)], accept=0.95)
        Limits(pixel=129, frame=0.05, held_out=1, guaranteed=False)
    """
    wrong, count = round(1 - accept, 9), len(pixels)  # 1 - 0.9 is a little less than 0.1
    levels = np.arange(LEVELS)
    above = histogram[::-1].cumsum()[::-1]
    expected = (histogram * (1 - levels / (LEVELS - 1)))[::-1].cumsum()[::-1]
    fits = expected <= CAUTION * wrong * above
    fits[0] = False  # no confidence: no label
    guaranteed = False
    if count:
        risk = risks(pixels, right)
        fits &= risk.mean(0) <= wrong
    at = int(fits.argmax()) if fits.any() and above[fits.argmax()] else LEVELS
    if count and at < LEVELS and not seen:
        guaranteed = count >= least_labels(accept) and bool((risk[:, at].sum() + 1) / (count + 1) <= wrong)
    most = (
        wrong if count and not seen else CAUTION * wrong
    )  # whole frames are not chosen for their confidence pixel by pixel
    for limit in sorted({told for told, _ in frames if told <= most}, reverse=True):
        if np.mean([true for told, true in frames if told <= limit]) <= wrong:
            break
        most = np.nextafter(limit, 0)
    return Limits(at, float(most), 0 if seen else count, guaranteed)


def accept_labels(index: ClipIndex, out: Path, accept: float) -> Accepted:
    """Decide which labels of a run need no review.

    Args:
        index: The clips, with the keyframes of the run.
        out: Folder of the run.
        accept: Ratio of the accepted pixels that should be right, in [0.5, 1).

    Raises:
        WrpError: If ``accept`` is out of its range, or a file of the run is missing or damaged.
    """
    if not 0.5 <= accept < 1:
        raise WrpError(f"--accept must be at least 0.5 and below 1, such as 0.95, got {accept}")
    clips = {clip.name for clip in index.clips}
    entries = [e for e in read_manifest(out) if e.clip in clips and not e.is_given]
    if not entries:
        raise WrpError(f"every frame of the clips of {out} has a label of its own: there is nothing to accept")
    histograms = [_histogram(out, entry) for entry in progress(entries, desc="Reading confidence", unit="frame")]
    pixels, right, seen = read_held_out(out)
    if not seen.all():
        pixels, right = pixels[~seen], right[~seen]
    total = np.sum(histograms, 0)
    told = [(expected_error(of), 1 - ok.sum() / max(1, of.sum())) for of, ok in zip(pixels, right, strict=True)]
    limits = find_limits(total, pixels, right, told, accept, seen=bool(seen.all()))
    errors = {f"{entry.clip}/{entry.frame}": expected_error(of) for entry, of in zip(entries, histograms, strict=True)}
    frames = tuple(name for name, error in errors.items() if error <= limits.frame)
    others = tuple(sorted(errors.keys() - set(frames), key=lambda name: -errors[name]))
    return Accepted(limits, frames, others, float(total[limits.pixel :].sum() / max(1, total.sum())), int(seen.sum()))


def accepted_pixels(out: Path, name: str, limits: Limits) -> np.ndarray:
    """Return which pixels of a frame are accepted, (H, W) bool.

    Args:
        out: Folder of the run.
        name: The frame, ``<clip>/<frame>``.
        limits: From which confidence on.
    """
    return _levels(out, name) >= limits.pixel


def expected_error(histogram: np.ndarray) -> float:
    """Return the expected ratio of wrong pixels, of those that have a label; 1 if none has.

    Args:
        histogram: Number of pixels by level of their confidence, (256,); those at 0 have no label.

    Example:
        >>> histogram = np.zeros(256)
        >>> histogram[[0, 204, 255]] = 5, 1, 3
        >>> round(expected_error(histogram), 3)
        0.05
    """
    labelled = histogram[1:]
    doubt = 1 - np.arange(1, LEVELS) / (LEVELS - 1)
    return float((labelled * doubt).sum() / labelled.sum()) if labelled.sum() else 1.0


def read_held_out(out: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the number of pixels and of right ones of each label that a run has held out in turn.

    Returns:
        Both numbers by level of the confidence, (N, 256) each; and whether networks have learned from the label, (N,)
        bool.

    Raises:
        DataError: If the file is damaged.
    """
    path = out / HELD_OUT
    if not path.is_file():  # a run without three keyframes in a clip, or one by networks alone
        return np.zeros((0, LEVELS)), np.zeros((0, LEVELS)), np.zeros(0, bool)
    content: Any = read_json(path, "delete it to do without; then no limit is checked against held-out keyframes")
    try:
        counts = [[label[key] for label in content["labels"]] for key in ("pixels", "right")]
        seen = np.array([label["seen"] for label in content["labels"]], bool)
        pixels, right = (np.array(of, np.float64).reshape(-1, LEVELS) for of in counts)
        if not (np.isfinite(pixels).all() and (pixels >= right).all() and (right >= 0).all()):
            raise ValueError("counts are out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a file of held-out labels: {error}; restore it, or make the run again"
        ) from error
    return pixels, right, seen


def _histogram(out: Path, entry: Entry) -> np.ndarray:
    return np.bincount(_levels(out, f"{entry.clip}/{entry.frame}").ravel(), minlength=LEVELS)


def _levels(out: Path, name: str) -> np.ndarray:
    confidence = read_confidence(out / "confidence" / f"{name}.png").numpy()
    return np.rint(confidence * (LEVELS - 1)).astype(np.uint8)
