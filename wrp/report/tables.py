"""The tables of a report, as rows of text."""

from __future__ import annotations

from typing import Any

from wrp.io.tables import Table, format_score, markdown_table
from wrp.metrics.propagation import REGIONS, TRIMAP

# Distances that have a column in the table; metrics.json has all distances.
DISTANCES = (1, 2, 3, 5, 8, 12, 16, 25, 50)


FLOW_IS_PART = "The seconds of flow are included in those of the refiner and of propagation."


"""Version of the keys of ``metrics.json``."""


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
