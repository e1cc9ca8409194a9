"""Measure the quality of propagation methods on held-out frames, by the distance between labels.

Labels at every second frame give close to the best result that can be reached: every held-out frame is next to a
labelled one on either side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import Rows

from wrp.data.index import ClipIndex, select_clips
from wrp.data.layouts.registry import open_index
from wrp.data.run import open_run
from wrp.errors import WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.options import SelectArgs
from wrp.report.metrics import read_metrics

sys.path.append(str(Path(__file__).parents[1] / "propagation"))
from methods import BY_MOTION, Masks, score


def by_motion(
    roots: Sequence[str], every: Sequence[int], seeds: Sequence[int], methods: Sequence[str] = tuple(BY_MOTION)
) -> Rows:
    """Score methods without networks: a row for each data set and K, a column for each method, a value for each seed.

    Propagation draws nothing at random. The seed is the number of the first label that is kept, so that each seed has
    other keyframes and other held-out frames; there are at most K of them.
    """
    rows: Rows = []
    flow = FlowCache(DIS())
    for root in roots:
        for spacing in every:
            name = f"{Path(root).name} K={spacing}"
            found = []
            for seed in (seed for seed in seeds if seed < spacing):
                index = select_clips(open_index(root), SelectArgs(label_every=spacing, label_offset=seed))
                found.append(score(index, list(methods), flow=flow, name=f"{name}, seed {seed}"))
            row = {"data": Path(root).name, "K": spacing}
            rows += [{**row, "score": name, **values} for name, values in _by_score(methods, index, found).items()]
    return rows


def by_networks(runs: Sequence[str]) -> Rows:
    """Collect the scores of finished runs of ``wrp autolabel`` on their held-out frames, in percent.

    Runs on the same data with the same K are one column, with a value for each run. ``upper_bound`` takes the better of
    motion and teacher at every pixel; ``student`` is the student network by itself, where a run has one.
    """
    columns: dict[str, list[dict[str, Any]]] = {}
    for run in map(Path, runs):
        metrics = finished(run)
        name = f"{Path(metrics['settings']['root']).name} K={metrics['settings']['select']['label_every']}"
        scores = metrics["overall"] | {key: metrics[key] for key in ("student",) if key in metrics}
        columns.setdefault(name, []).append(scores)
        if any(score.get("j") is not None for score in scores.values()):
            columns.setdefault(f"{name}, J", []).append({key: {"miou": s.get("j")} for key, s in scores.items()})
    methods = list(dict.fromkeys(method for found in columns.values() for scores in found for method in scores))
    methods.sort(key=lambda method: method in ("upper_bound", "student"))
    return [
        {"method": method}
        | {name: [scores.get(method, {}).get("miou") for scores in found] for name, found in columns.items()}
        for method in methods
    ]


def finished(run: Path) -> dict[str, Any]:
    """Read the metrics of a finished run; WrpError if there are none, or if the run held out no labels."""
    index = open_run(run)
    if not any(clip.held_out for clip in index.clips):
        raise WrpError(f"{run} has no held-out labels to score: expected a run with --label-every K")
    return read_metrics(index, run)


def _by_score(
    methods: Sequence[str], index: ClipIndex, found: list[tuple[dict[str, dict[str, Any]], Masks]]
) -> dict[str, dict[str, list[float | None]]]:
    """Values of each method by score: mIoU, and J for masks of one object."""
    values = {"mIoU": {method: [scores[method]["miou"] for scores, _ in found] for method in methods}}
    if index.binary:
        values["J"] = {method: [_mean_region(masks, method) for _, masks in found] for method in methods}
    return values


def _mean_region(masks: Masks, method: str) -> float | None:
    regions = [region for (name, _), pairs in masks.items() if name == method for region, _ in pairs]
    return 100 * sum(regions) / len(regions) if regions else None
