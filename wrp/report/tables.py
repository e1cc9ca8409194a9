"""Write report.md: the tables of a run and one picture per clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wrp.data.index import ClipIndex
from wrp.errors import WrpError
from wrp.io.images import read_image, read_label
from wrp.io.opening import read_json
from wrp.io.palettes import CAPTION_HEIGHT
from wrp.io.tables import Table, format_score, markdown_table
from wrp.io.writing import write_image, write_text
from wrp.metrics.propagation import REGIONS, TRIMAP
from wrp.options import flat
from wrp.report.scoring import prediction_path
from wrp.structures import Clip

# Distances that have a column in the table; metrics.json has all distances.
DISTANCES = (1, 2, 3, 5, 8, 12, 16, 25, 50)


FLOW_IS_PART = "The seconds of flow are included in those of the refiner and of propagation."


METRICS_SCHEMA = 2
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


def read_metrics(index: ClipIndex, out: Path) -> dict[str, Any]:
    """Read the ``metrics.json`` of a finished run.

    Raises:
        WrpError: If labels of the run or ``metrics.json`` are missing, or ``metrics.json`` is damaged or of another
            version.
    """
    names = [Path(clip.name, f"{frame.stem}.png") for clip in index.clips for frame in clip.frames]
    missing = [out / "labels" / name for name in names if not (out / "labels" / name).is_file()]
    if missing:
        raise WrpError(
            f"{out} is not finished: {len(missing)} of {len(names)} labels are missing, the first is {missing[0]}; run "
            "the command that started it again"
        )
    path = out / "metrics.json"
    if not path.is_file():
        raise WrpError(
            f"there is no {path}: the labels are there, but have not been scored; run the command that made them again"
        )
    remedy = "delete it and run the command that made it again"
    metrics = read_json(path, remedy)
    if metrics.get("schema") != METRICS_SCHEMA:
        raise WrpError(
            f"{path} cannot be used (its schema is {metrics.get('schema')!r}, expected {METRICS_SCHEMA}); {remedy}"
        )
    if lacking := [
        key for key in ("settings", "overall", "clips", "seconds") if not isinstance(metrics.get(key), dict)
    ]:
        raise WrpError(f"{path} cannot be used (it lacks {lacking[0]}); {remedy}")
    return metrics


def write_report(index: ClipIndex, metrics: dict[str, Any], out: Path) -> None:
    """Write report.md and its pictures from the files of a run.

    Args:
        index: The clips of the run.
        metrics: The content of its ``metrics.json``.
        out: Folder of the run.
    """
    methods = tuple(metrics["settings"]["methods"])
    parts = ["# Report of wrp autolabel", summary(index, metrics)]
    if any(clip.held_out for clip in index.clips):
        parts += [
            "## Scores on held-out frames",
            "mIoU in percent; d is the distance to the nearest keyframe in frames.",
        ]
        parts.append(overall_table(metrics))
        if "student" in metrics:
            parts.append(f"The student alone, on the same frames: mIoU {format_score(metrics['student']['miou'])}")
        parts += ["### By region", markdown_table(*region_rows(metrics))]
        parts += [_confidence(metrics), "### By class", markdown_table(*class_rows(metrics))]
        if len(index.clips) > 1:
            parts += ["### By clip", markdown_table(*clip_rows(metrics))]
    parts.append("## Pictures")
    for clip in index.clips:
        picture = Path("report", f"{clip.name}.png")
        position = pictured_frame(clip)
        write_image(out / picture, draw_panel(index, clip, position, methods, out))
        parts += [f"### {clip.name}, frame {clip.frames[position].stem}", f"![{clip.name}]({picture})"]
    parts += ["## Settings", *(f"- {key}: `{value}`" for key, value in flat(metrics["settings"]))]
    parts += ["## Seconds", FLOW_IS_PART, *(f"- {key}: {value}" for key, value in metrics["seconds"].items())]
    write_text(out / "report.md", "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n")


def pictured_frame(clip: Clip) -> int:
    """Return the index of the frame to show: the farthest from its keyframes, where the methods differ most.

    It is a held-out frame if there is one, otherwise a frame without a label, otherwise a keyframe.

    Example:
        >>> pictured_frame(Clip("street", frames=(), keyframes=(0, 8), held_out=(1, 3, 7)))
        3
    """
    candidates = clip.held_out or tuple(i for i in range(len(clip.frames)) if i not in clip.keyframes) or clip.keyframes
    return max(candidates, key=lambda i: min(abs(i - keyframe) for keyframe in clip.keyframes))


def draw_panel(index: ClipIndex, clip: Clip, position: int, methods: tuple[str, ...], out: Path) -> Image.Image:
    """Draw a frame, its ground truth if known, and its labels by each method, with captions and in rows of three.

    Args:
        index: The clips of the run.
        clip: One of them.
        position: Index of the frame in the clip.
        methods: The methods of the run.
        out: Folder of the run.
    """
    frame = clip.frames[position]
    label_map = index.label_map
    image = read_image(frame.image).permute(1, 2, 0).numpy()
    tiles = [(f"frame {frame.stem}", image)]
    if frame.label is not None:
        tiles.append(("ground truth", label_map.colorize(read_label(frame.label, label_map).numpy())))
    for method in methods:
        path = prediction_path(out, methods, method, clip.name, frame.stem)
        if path.is_file():  # keyframes are written for the last method only
            tiles.append((method, label_map.colorize(read_label(path, label_map.written).numpy())))
    columns = min(3, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = image.shape[0] + CAPTION_HEIGHT, image.shape[1]
    panel = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(13)
    for number, (caption, tile) in enumerate(tiles):
        x, y = number % columns * width, number // columns * height
        draw.text((x + 4, y + 1), caption, fill="black", font=font)
        panel.paste(Image.fromarray(np.ascontiguousarray(tile)), (x, y + CAPTION_HEIGHT))
    return panel


def summary(index: ClipIndex, metrics: dict[str, Any]) -> str:
    """Say in a sentence how many frames and keyframes there are, and which method labelled the others."""
    frames = sum(len(clip.frames) for clip in index.clips)
    keyframes = sum(len(clip.keyframes) for clip in index.clips)
    final = metrics["settings"]["methods"][-1]
    return (
        f"{frames} frames in {len(index.clips)} clip{'s' if len(index.clips) > 1 else ''}, {keyframes} of them "
        f"keyframes (labelled by hand); the other labels in `labels/` are by the method `{final}`."
    )


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


def _confidence(metrics: dict[str, Any]) -> str:
    """Return the section on confidence: calibration error, mIoU by coverage, accuracy by confidence."""
    scores = metrics["overall"][metrics["settings"]["methods"][-1]]
    if scores.get("ece") is None:
        return "### Confidence\n\nNo pixels to score."
    rows = [[f"{100 * kept:.1f} %", format_score(miou)] for kept, miou in scores["risk_coverage"]]
    reliable = [[f"{c:.3f}", f"{right:.3f}", f"{pixels}"] for c, right, pixels in scores["reliability"]]
    return (
        f"### Confidence\n\nExpected calibration error: {scores['ece']:.3f}. mIoU of the most confident pixels, by the "
        f"percentage of pixels kept:\n\n{markdown_table(['kept', 'mIoU'], rows)}\n\n"
        f"Accuracy of labels by their confidence:\n\n{markdown_table(['confidence', 'accuracy', 'pixels'], reliable)}"
    )


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
