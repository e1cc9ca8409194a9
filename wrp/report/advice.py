"""What to do next with a run none of whose labels was held out, so that its quality can only be estimated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wrp.data.index import CLIP, ClipIndex
from wrp.errors import listed
from wrp.io.manifest import Entry
from wrp.io.tables import format_score
from wrp.report.tables import format_estimate

# Frames of low confidence that are named.
WORST = 3


def next_steps(
    index: ClipIndex,
    metrics: dict[str, Any],
    manifest: Sequence[Entry],
    suggested: Sequence[str] = (),
    run: str = "DIR",
) -> list[str]:
    """Say what the labels of a run may be worth, which of them to look at, and what to label next.

    Args:
        index: The clips of the run.
        metrics: The content of its ``metrics.json``.
        manifest: Its frames.
        suggested: Names of the frames to label next, ``<clip>/<frame>``, the best first.
        run: Folder of the run, for commands.

    Returns:
        A paragraph of Markdown for each step; none where labels were held out, as the scores tell more.

    Example:
        >>> from pathlib import Path
        >>> from wrp.structures import LabelMap
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), ())
        >>> metrics = {"settings": {"methods": ["motion"], "student": None}}
        >>> next_steps(index, metrics, [Entry("a", "3", 3, "motion", (0, 8), 3, 0.9, "labels/a/3.png")])[1]
        'Look first at the frames of the lowest mean confidence: a/3 (0.900).'
    """
    if any(clip.held_out for clip in index.clips):
        return []
    steps = [_quality(metrics)]
    labelled = sorted((entry for entry in manifest if not entry.is_given), key=lambda entry: entry.mean_confidence)
    if labelled:
        named = ", ".join(f"{entry.clip}/{entry.frame} ({entry.mean_confidence:.3f})" for entry in labelled[:WORST])
        steps.append(f"Look first at the frames of the lowest mean confidence: {named}.")
    if suggested:
        place = f" Their labels go into `{index.labels_go_to}`." if index.layout == CLIP else ""
        steps.append(
            f"Label next: {', '.join(suggested)}; `wrp suggest {run} -n {len(suggested)}` shows pictures of "
            f"them; with another number, it chooses other ones.{place} Then run `wrp autolabel` with another `--out`, "
            f"and `--continue {run}`."
        )
    if found := metrics.get("contradictions"):
        named = listed(list(dict.fromkeys(f"{one['clip']}/{one['frame']}" for one in found)), WORST)
        steps.append(f"Check the labels of these keyframes, which contradict the keyframes beside them: {named}.")
    if metrics["settings"].get("student") is not None:
        steps.append("The student has no score, as no label was held out for it: `--label-every 2` holds some out.")
    return steps


def _quality(metrics: dict[str, Any]) -> str:
    """Say which quality the result is estimated to have, also compared with motion alone."""
    *_, result = metrics["settings"]["methods"]
    estimate = metrics.get("estimate", {})
    if result not in estimate:
        return (
            "How good the labels are is not known: an estimate needs a clip with three labelled frames, and a score "
            "needs labels that are held out, by `--label-every 2`."
        )
    text = (
        f"The labels, by `{result}`, are estimated to have an mIoU of {format_estimate(estimate[result])}, from the "
        "keyframes alone; `--label-every 2` uses every second label, and scores the result on the others."
    )
    if estimate[result]["seen"]:
        text += " Its networks have learned from these keyframes, and know more there than elsewhere."
    if result == "motion" or "motion" not in estimate:
        return text
    if estimate[result]["seen"]:
        return f"{text} `motion`, which needs no training, is estimated to have {format_estimate(estimate['motion'])}."
    gain = estimate[result]["miou"] - estimate["motion"]["miou"]
    if gain > 0:
        return f"{text} `motion`, which needs no training, is estimated to have {format_score(gain)} less."
    return f"{text} `motion` is estimated to have no less: `--methods motion` spares the training."
