"""report.md: the tables of a run and one picture per clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wrp.data.index import ClipIndex
from wrp.io.images import read_frame_label, read_image, read_label
from wrp.io.manifest import Entry, read_manifest
from wrp.io.palettes import CAPTION_HEIGHT, draw_labels
from wrp.io.tables import escape_markdown, escape_prose, format_score, markdown_table
from wrp.io.writing import write_image, write_text
from wrp.report.advice import next_steps
from wrp.report.audit import AUDITED, contradiction_rows, draw_contradictions
from wrp.report.continued import changed_rows, continued_lines
from wrp.report.scoring import prediction_path
from wrp.report.tables import (
    ESTIMATED,
    FLOW_IS_PART,
    class_rows,
    clip_rows,
    coverage_rows,
    estimate_rows,
    estimated_class_rows,
    overall_table,
    region_rows,
    reliability_rows,
    seconds_of_stages,
    shown_settings,
)
from wrp.structures import Clip


def write_report(index: ClipIndex, metrics: dict[str, Any], out: Path, suggested: Sequence[str] = ()) -> None:
    """Write report.md and its pictures from the files of a run.

    Args:
        index: The clips of the run.
        metrics: The content of its ``metrics.json``.
        out: Folder of the run.
        suggested: Names of the frames to label next, ``<clip>/<frame>``.
    """
    methods = tuple(metrics["settings"]["methods"])
    manifest = read_manifest(out)
    parts = ["# Report of wrp autolabel", summary(index, metrics)]
    if steps := next_steps(index, metrics, manifest, suggested, str(out)):
        parts += ["## What to do next", *(f"- {escape_prose(step)}" for step in steps)]
    if any(clip.held_out for clip in index.clips):
        parts += [
            "## Scores on held-out frames",
            "mIoU in percent; d is the distance to the nearest keyframe in frames, of which some are shown.",
        ]
        parts.append(overall_table(metrics))
        if "student" in metrics:
            parts.append(f"The student alone, on the same frames: mIoU {format_score(metrics['student']['miou'])}")
        parts += ["### By region", markdown_table(*region_rows(metrics))]
        parts += [_confidence(metrics), "### By class", markdown_table(*class_rows(metrics))]
        if len(index.clips) > 1:
            parts += ["### By clip", markdown_table(*clip_rows(metrics))]
    if "estimate" in metrics:
        parts += ["## Estimated quality", ESTIMATED, markdown_table(*estimate_rows(metrics))]
        parts.append(markdown_table(*estimated_class_rows(metrics)))
    if metrics.get("contradictions"):
        parts += ["## Keyframes to check", AUDITED, markdown_table(*contradiction_rows(metrics))]
        for number, (caption, cut_out) in enumerate(draw_contradictions(index, metrics)):
            write_image(out / f"audit/{number}.png", cut_out)
            parts.append(f"![{escape_markdown(caption)}](audit/{number}.png)")
    if lines := continued_lines(metrics):
        parts += ["## What has changed", *map(escape_prose, lines)]
        parts += [markdown_table(*rows)] if (rows := changed_rows(metrics)) is not None else []
    if cuts := cut_rows(manifest):
        parts += [
            "## Cuts",
            "No label is propagated across a cut.",
            markdown_table(["clip", "first frame behind"], cuts),
        ]
    parts.append("## Pictures")
    for clip in index.clips:
        picture = Path("report", f"{clip.name}.png")
        position = pictured_frame(clip)
        write_image(out / picture, draw_panel(index, clip, position, methods, out))
        name, stem = escape_markdown(clip.name), escape_markdown(clip.frames[position].stem)
        parts += [f"### {name}, frame {stem}", f"![{name}]({quote(picture.as_posix())})"]
    parts += ["## Settings", *(f"- {key}: `{value}`" for key, value in shown_settings(metrics).items())]
    parts += ["## Seconds", FLOW_IS_PART, *(f"- {key}: {value}" for key, value in seconds_of_stages(metrics).items())]
    write_text(out / "report.md", "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n")


def cut_rows(entries: Sequence[Entry]) -> list[list[str]]:
    """Return clip and name of each frame that shows another scene than the frame before it."""
    follows = zip(entries, entries[1:], strict=False)
    return [[after.clip, after.frame] for before, after in follows if before.cut and before.clip == after.clip]


def pictured_frame(clip: Clip) -> int:
    """Return the index of the frame to show: the farthest from its keyframes, where the methods differ most.

    It is a held-out frame if there is one, otherwise a frame without a label, otherwise a keyframe.

    Example:
        >>> pictured_frame(Clip("street", frames=(), keyframes=(0, 8), held_out=(1, 3, 7)))
        3
    """
    unlabelled = sorted({*range(len(clip.frames))} - {*clip.keyframes})
    return max(clip.held_out or unlabelled or clip.keyframes, key=clip.distance)


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
        tiles.append(("ground truth", draw_labels(read_frame_label(frame, label_map).numpy(), label_map)))
    for method in methods:
        path = prediction_path(out, methods, method, clip.name, frame.stem)
        if path.is_file():  # keyframes are written for the last method only
            tiles.append((method, draw_labels(read_label(path, label_map.written).numpy(), label_map)))
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


def _confidence(metrics: dict[str, Any]) -> str:
    """Return the section on confidence: calibration error, mIoU by coverage, accuracy by confidence."""
    scores = metrics["overall"][metrics["settings"]["methods"][-1]]
    if scores.get("ece") is None:
        return "### Confidence\n\nNo pixels to score."
    return (
        f"### Confidence\n\nExpected calibration error: {scores['ece']:.1f} %. mIoU of the most confident pixels, by "
        f"the percentage of pixels kept:\n\n{markdown_table(*coverage_rows(scores))}\n\n"
        f"Accuracy of labels by their confidence:\n\n{markdown_table(*reliability_rows(scores))}"
    )
