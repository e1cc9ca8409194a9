"""The tables of a report, as rows of text."""

from __future__ import annotations

from typing import Any

from wrp.io.tables import Table, format_score, markdown_table
from wrp.metrics.propagation import REGIONS, TRIMAP
from wrp.options import flat

# Distances that have a column in the table; metrics.json has all distances.
DISTANCES = (1, 2, 3, 5, 8, 12, 16, 25, 50)


ESTIMATED = (
    "From the keyframes alone: each between two others was labelled as if it had no label, which is about twice the "
    "spacing of the run; errors are taken to grow with the logarithm of the distance in frames. An estimate is "
    "*optimistic* if the networks of the method have learned from these labels: they know more there than elsewhere."
)

FLOW_IS_PART = (
    "The seconds of flow are spent in the other stages, and are the sum over all flows: several may be estimated at a "
    "time, so that they may be more than the total."
)


def overall_table(metrics: dict[str, Any]) -> str:
    """Return the table of :func:`overall_rows` as Markdown.

    Example:
        >>> scores = {"miou": 81.25, "by_distance": {"1": 90.0, "2": 72.5}, "frames": 4}
        >>> print(overall_table({"overall": {"motion": scores}}))
        | method | mIoU |  d=1 |  d=2 | frames |
        |--------|-----:|-----:|-----:|-------:|
        | motion | 81.2 | 90.0 | 72.5 |      4 |
    """
    return markdown_table(*overall_rows(metrics))


def overall_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each method: mIoU over all held-out frames and by distance to the nearest keyframe.

    Args:
        metrics: The content of ``metrics.json``.

    Returns:
        Header and rows; mIoU, J and F in percent.

    Example:
        >>> scores = {"miou": 81.25, "by_distance": {"1": 90.0}, "frames": 4}
        >>> overall_rows({"overall": {"motion": scores}})
        (['method', 'mIoU', 'd=1', 'frames'], [['motion', '81.2', '90.0', '4']])
    """
    overall = metrics["overall"]
    distances = sorted({int(d) for scores in overall.values() for d in scores["by_distance"]})
    shown = [d for d in distances if d in DISTANCES or d == distances[-1]]
    masks = [key for key in ("j", "f") if any(key in scores for scores in overall.values())]
    header = ["method", "mIoU", *(key.upper() for key in masks), *(f"d={d}" for d in shown), "frames"]
    rows = [
        [name, format_score(s["miou"]), *(format_score(s.get(key)) for key in masks)]
        + [format_score(s["by_distance"].get(str(d))) for d in shown]
        + [str(s["frames"])]
        for name, s in overall.items()
    ]
    return header, rows


def region_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each method: mIoU in percent within each region that was scored.

    Example:
        >>> scores = {"miou_trimap": 70.0, "miou_inside_error": None, "miou_outside_error": None}
        >>> region_rows({"overall": {"motion": scores}})
        (['mIoU', 'within 3 px of a border'], [['motion', '70.0']])
    """
    rows = [
        [name, *(format_score(s[f"miou_{region}"]) for region in REGIONS)] for name, s in metrics["overall"].items()
    ]
    names = {
        "trimap": f"within {TRIMAP} px of a border",
        "inside_error": "inside motion errors",
        "outside_error": "outside motion errors",
    }
    shown = [i for i in range(len(REGIONS)) if any(row[i + 1] != format_score(None) for row in rows)]
    header = ["mIoU", *(names[REGIONS[i]] for i in shown)]
    return header, [[row[0], *(row[i + 1] for i in shown)] for row in rows]


def class_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each class: IoU in percent by each method.

    Example:
        >>> class_rows({"overall": {"motion": {"per_class": {"road": 95.0, "car": None}}}})
        (['class', 'motion'], [['road', '95.0'], ['car', '–']])
    """
    overall = metrics["overall"]
    names = list(next(iter(overall.values()))["per_class"])
    rows = [[name, *(format_score(scores["per_class"][name]) for scores in overall.values())] for name in names]
    return ["class", *overall], rows


def clip_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each clip: mIoU in percent by each method.

    Example:
        >>> clip_rows({"overall": {"motion": {}}, "clips": {"street": {"motion": {"miou": 81.2}}}})
        (['clip', 'motion'], [['street', '81.2']])
    """
    rows = [[clip, *(format_score(s["miou"]) for s in scores.values())] for clip, scores in metrics["clips"].items()]
    return ["clip", *metrics["overall"]], rows


def estimate_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each method: the mIoU in percent that it is estimated to have, and what it is estimated from.

    Example:
        >>> found = {"miou": 83.2, "spread": 1.14, "held_out_miou": 78.0, "labels": 7, "distance": 24.0, "seen": False}
        >>> estimate_rows({"estimate": {"motion": found}})[1]
        [['motion', '83.2 ± 1.1', '78.0', '7', '24.0']]
    """
    header = ["method", "estimated mIoU", "mIoU at keyframes held out in turn", "keyframes", "distance"]
    rows = [
        [name, format_estimate(found), format_score(found["held_out_miou"]), str(found["labels"])]
        + [format_score(found["distance"])]
        for name, found in metrics["estimate"].items()
    ]
    return header, rows


def format_estimate(found: dict[str, Any]) -> str:
    """Format an estimated mIoU in percent, with its standard error if it is known.

    Example:
        >>> format_estimate({"miou": 83.2, "spread": None, "seen": False})
        '83.2'
        >>> format_estimate({"miou": 91.4, "spread": 0.6, "seen": True})
        '91.4 ± 0.6 (optimistic)'
    """
    spread = "" if found["spread"] is None else f" ± {format_score(found['spread'])}"
    return f"{format_score(found['miou'])}{spread}{' (optimistic)' if found['seen'] else ''}"


def estimated_class_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each class: the IoU in percent that it is estimated to have by each method.

    Example:
        >>> estimated_class_rows({"estimate": {"motion": {"per_class": {"road": 95.0, "car": None}}}})
        (['class', 'motion'], [['road', '95.0'], ['car', '–']])
    """
    return class_rows({"overall": metrics["estimate"]})


# Rows of a table of confidence: pixels kept, in percent, that lie between two rows at least, and pixels of a row.
KEPT_STEP = 2.5
LEAST_PIXELS = 1e-3


def coverage_rows(scores: dict[str, Any]) -> Table:
    """Return rows of the mIoU of the most confident pixels by how many are kept, without rows that say the same.

    Example:
        >>> coverage_rows({"risk_coverage": [(0.5, 99.0), (0.9, 95.0), (0.9999, 90.1), (1.0, 90.0)]})[1]
        [['50.0 %', '99.0'], ['90.0 %', '95.0'], ['100.0 %', '90.0']]
    """
    *others, (all_kept, of_all) = scores["risk_coverage"]
    rows, before = [], 0.0
    for kept, miou in others:
        if 100 * (kept - before) >= KEPT_STEP and 100 * (all_kept - kept) >= KEPT_STEP:
            rows.append([f"{100 * kept:.1f} %", format_score(miou)])
            before = kept
    return ["kept", "mIoU"], [*rows, [f"{100 * all_kept:.1f} %", format_score(of_all)]]


def reliability_rows(scores: dict[str, Any]) -> Table:
    """Return rows of the accuracy by confidence, without those of hardly any pixel.

    Example:
        >>> reliability_rows({"reliability": [(0.3, 0.5, 2), (0.95, 0.97, 9998)]})[1]
        [['0.950', '0.970', '9998']]
    """
    least = LEAST_PIXELS * sum(pixels for *_, pixels in scores["reliability"])
    rows = [[f"{c:.3f}", f"{right:.3f}", str(pixels)] for c, right, pixels in scores["reliability"] if pixels >= least]
    return ["confidence", "accuracy", "pixels"], rows


def shown_settings(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by their dotted names, without those of networks that it has not trained.

    Settings that are not given, None or empty, are left out as well.

    Example:
        >>> settings = {"methods": ["motion"], "split": None, "train_refiner": {"steps": 600}, "run": {"seed": 0}}
        >>> shown_settings({"settings": settings, "seconds": {"teacher": 0.0, "propagate": 3.5}})
        {'methods': ['motion'], 'run.seed': 0}
    """
    trained = {name for name, seconds in metrics["seconds"].items() if seconds}
    needless = [] if any(name.startswith(("teacher", "student")) for name in trained) else ["train_teacher."]
    needless += [] if "refiner" in trained else ["train_refiner."]
    given = {name: value for name, value in flat(metrics["settings"]) if value not in (None, {}, [])}
    return {name: value for name, value in given.items() if not name.startswith(tuple(needless))}


def seconds_of_stages(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage, which add up to the total; last, those of flow, which are spent in others.

    Example:
        >>> seconds_of_stages({"seconds": {"flow": 6.0, "teacher": 0.0, "propagate": 7.5, "total": 10.0}})
        {'propagate': 7.5, 'checks and the rest': 2.5, 'total': 10.0, 'flow, summed': 6.0}
    """
    stages = {name: took for name, took in metrics["seconds"].items() if took and name not in ("flow", "total")}
    total = metrics["seconds"]["total"]
    rest = round(max(0.0, total - sum(stages.values())), 2)
    return stages | {"checks and the rest": rest, "total": total, "flow, summed": metrics["seconds"]["flow"]}
