"""Write report.html: labels frame by frame, and scores, in one file that needs neither a server nor a network."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from wrp.data.index import ClipIndex
from wrp.errors import DataError
from wrp.io.images import read_confidence, read_frame_label, read_image, read_label
from wrp.io.manifest import Entry, read_manifest
from wrp.io.palettes import CONFIDENCE, PROVENANCE_PALETTE, is_blended
from wrp.io.progress import make_bar
from wrp.io.stopping import check_stop
from wrp.io.tables import Table
from wrp.io.writing import write_text
from wrp.metrics.segmentation import confusion, mean_iou
from wrp.options import flat
from wrp.report.advice import next_steps
from wrp.report.audit import AUDITED, contradiction_rows, draw_contradictions
from wrp.report.continued import changed_rows, continued_lines
from wrp.report.markdown import cut_rows, summary
from wrp.report.tables import (
    ESTIMATED,
    FLOW_IS_PART,
    class_rows,
    clip_rows,
    estimate_rows,
    estimated_class_rows,
    format_estimate,
    overall_rows,
    region_rows,
    seconds_of_stages,
    shown_settings,
)
from wrp.structures import Clip, LabelMap

logger = logging.getLogger("wrp")

TEMPLATES = Path(__file__).with_name("templates")

# Limits that keep the page small: frames per clip and in total, clips, longest side of a picture in pixels, quality.
FRAMES_PER_CLIP = 100
FRAMES = 300
CLIPS = 60
LONGEST = 640
QUALITY = 75

SOURCES = LabelMap(
    ids=tuple(range(8)),
    names=(
        *("none", "earlier keyframe", "later keyframe", "both keyframes"),
        *("teacher", "earlier keyframe, teacher", "later keyframe, teacher", "both keyframes, teacher"),
    ),
    colors=tuple((red, green, blue) for red, green, blue in np.reshape(PROVENANCE_PALETTE, (8, 3)).tolist()),
)
"""Meaning of the values of the files in ``provenance/``: what agrees with the label."""


@dataclass(frozen=True)
class FrameRow:
    """What is known about a frame besides its pictures.

    Attributes:
        index: Its index in the clip.
        stem: Its name.
        method: The method that made its label, or ``keyframe``.
        distance: Frames to the nearest keyframe; None if no keyframe was used.
        confidence: Mean confidence in [0, 1].
        miou: mIoU in percent of a held-out frame whose ground truth shows a class; None for other frames.

    Example:
        >>> rows = [FrameRow(1, "00001", "motion", 1, 0.9), FrameRow(2, "00002", "motion", 2, 0.95, miou=71.5)]
        >>> min(rows, key=lambda row: row.rank).stem
        '00002'
    """

    index: int
    stem: str
    method: str
    distance: int | None
    confidence: float
    miou: float | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """Key that sorts frames with the worst first: by mIoU, and after these, frames without mIoU by confidence."""
        return (True, self.confidence) if self.miou is None else (False, self.miou)


def most_shown(clips: int) -> int:
    """Return how many frames of each clip the page shows at most.

    Example:
        >>> most_shown(1), most_shown(60)
        (100, 5)
    """
    return max(min(FRAMES_PER_CLIP, FRAMES // min(clips, CLIPS)), 1)


def write_page(
    index: ClipIndex, metrics: dict[str, Any], out: Path, with_teacher: bool, suggested: Sequence[str] = ()
) -> None:
    """Write report.html from the files of a run.

    If clips are long or many, the page shows a selection of frames and clips, and says so.

    Args:
        index: The clips of the run.
        metrics: The content of its ``metrics.json``.
        out: Folder of the run.
        with_teacher: Whether the result has used a teacher, so that the legend of provenance names it.
        suggested: Names of the frames to label next, ``<clip>/<frame>``.

    Raises:
        DataError: If a file of the run is missing or damaged.
    """
    manifest = read_manifest(out)
    rows = _frame_rows(index, manifest, out)
    clips = _worst(index.clips, rows)
    most = most_shown(len(clips))
    chosen = {clip.name: choose_frames(clip, rows[clip.name], most) for clip in clips}
    with make_bar(desc="Writing report.html", unit="frame", total=sum(map(len, chosen.values()))) as progress:
        shown = []
        for clip in clips:
            frames = []
            for position in chosen[clip.name]:
                frames.append(vars(rows[clip.name][position]) | _pictures(clip, position, index, out))
                check_stop()
                progress.update()
            shown.append(_clip_data(clip, rows[clip.name]) | {"frames": frames})
    sources = _legend(SOURCES)[: 8 if with_teacher else 4]
    data = {
        "classes": _legend(index.label_map),
        "provenance_legend": sources,
        "confidence_colors": CONFIDENCE,
        "clips": shown,
    }
    write_text(out / "report.html", _render(index, metrics, out, data, manifest, suggested))
    logger.info("%s: %.1f MB", out / "report.html", (out / "report.html").stat().st_size / 1e6)


def choose_frames(clip: Clip, rows: Sequence[FrameRow], most: int) -> list[int]:
    """Choose at most this many frames of a clip: a quarter the worst, a quarter keyframes, the others evenly spaced.

    Args:
        clip: The clip.
        rows: Its frames.
        most: Number of frames to choose at most.

    Returns:
        Indices in the clip in increasing order.

    Example:
        >>> clip = Clip("street", frames=(), keyframes=(0, 8))
        >>> rows = [FrameRow(i, str(i), "motion", 1, 0.5 if i == 5 else 0.9) for i in range(9)]
        >>> choose_frames(clip, rows, 4)
        [0, 1, 5, 8]
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    queries = sorted(set(range(len(rows))) - set(clip.keyframes), key=lambda i: rows[i].rank)
    kept = {*queries[: most // 4], *_evenly(clip.keyframes, most // 4)}
    rest = [i for i in range(len(rows)) if i not in kept]
    return sorted(kept.union(_evenly(rest, most - len(kept))))


def _evenly(items: Sequence[int], most: int) -> list[int]:
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _frame_rows(index: ClipIndex, manifest: Sequence[Entry], out: Path) -> dict[str, list[FrameRow]]:
    """Return the frames of each clip in order, with the mIoU of the held-out ones."""
    entries = {(entry.clip, entry.frame): entry for entry in manifest}
    rows: dict[str, list[FrameRow]] = {}
    hidden = sum(len(clip.held_out) for clip in index.clips)
    with make_bar(desc="Scoring frames", unit="frame", total=hidden, disable=not hidden) as progress:
        for clip in index.clips:
            rows[clip.name] = []
            scored = set(clip.held_out)
            for i, frame in enumerate(clip.frames):
                entry = entries.get((clip.name, frame.stem))
                if entry is None:
                    raise DataError(f"{out / 'manifest.jsonl'} lacks frame {frame.stem} of clip {clip.name}")
                miou = _frame_miou(clip, i, index.label_map, out) if i in scored else None
                check_stop()
                progress.update(i in scored)
                distance, confidence = entry.distance, entry.mean_confidence
                rows[clip.name].append(FrameRow(i, frame.stem, entry.method, distance, confidence, miou))
    return rows


def _frame_miou(clip: Clip, position: int, label_map: LabelMap, out: Path) -> float | None:
    """Return the mIoU in percent of the result at a held-out frame, over the classes in its truth or prediction."""
    truth = _truth(clip, position, label_map)
    labels = read_label(_written(out, "labels", clip, position), label_map.written, (truth.shape[0], truth.shape[1]))
    value = float(mean_iou(confusion(labels, truth, label_map.num_classes)))
    return None if math.isnan(value) else round(100 * value, 2)


def _truth(clip: Clip, position: int, label_map: LabelMap) -> Tensor:
    return read_frame_label(clip.frames[position], label_map)


def _worst(clips: Sequence[Clip], rows: dict[str, list[FrameRow]]) -> list[Clip]:
    """Return the clips with the lowest mean mIoU, or mean confidence if no mIoU is known, in their order."""

    def rank(clip: Clip) -> tuple[bool, float]:
        scores = [row.miou for row in rows[clip.name] if row.miou is not None]
        return not scores, float(np.mean(scores or [row.confidence for row in rows[clip.name]]))

    kept = {clip.name for clip in sorted(clips, key=rank)[:CLIPS]}
    return [clip for clip in clips if clip.name in kept]


def _clip_data(clip: Clip, rows: Sequence[FrameRow]) -> dict[str, Any]:
    """Return what the timeline shows: all frames, also those without pictures in the page."""
    return {
        "name": clip.name,
        "keyframes": clip.keyframes,
        "confidence": [row.confidence for row in rows],
        "miou": [row.miou for row in rows],
    }


def _pictures(clip: Clip, position: int, index: ClipIndex, out: Path) -> dict[str, str | None]:
    """Encode the pictures of a frame as base64 of WebP; grey levels are the values of labels, truth and provenance."""
    image = Image.fromarray(read_image(clip.frames[position].image).permute(1, 2, 0).numpy())
    shape = (image.height, image.width)
    labels = read_label(_written(out, "labels", clip, position), index.label_map.written, shape)
    confidence = read_confidence(_written(out, "confidence", clip, position), shape)
    source = _written(out, "provenance", clip, position)
    provenance = read_label(source, SOURCES, shape) if source.is_file() else None
    truth = _truth(clip, position, index.label_map) if position in clip.held_out else None
    return encode_pictures(image, labels, confidence, provenance, truth)


def encode_pictures(
    image: Image.Image, labels: Tensor, confidence: Tensor, provenance: Tensor | None, truth: Tensor | None
) -> dict[str, str | None]:
    """Encode the pictures of a frame for the page.

    Args:
        image: The frame, of H×W pixels.
        labels: (H, W) uint8.
        confidence: (H, W) float32 in [0, 1].
        provenance: (H, W) uint8; None: it is not shown.
        truth: (H, W) uint8; None: it is not known.

    Example:
        >>> import torch
        >>> label = torch.zeros(4, 6, dtype=torch.uint8)
        >>> found = encode_pictures(Image.new("RGB", (6, 4)), label, label.float(), None, label)
        >>> found["labels"] == found["truth"], found["provenance"]
        (True, None)
    """
    return {
        "image": _webp(image),
        "labels": _webp_of_numbers(labels),
        "certainty": _webp(Image.fromarray((255 * confidence).round().byte().numpy())),
        "provenance": None if provenance is None else _webp_of_numbers(provenance),
        "truth": None if truth is None else _webp_of_numbers(truth),
    }


def _written(out: Path, folder: str, clip: Clip, position: int) -> Path:
    return out / folder / clip.name / f"{clip.frames[position].stem}.png"


def _webp_of_numbers(values: Tensor) -> str:
    return _webp(Image.fromarray(values.numpy()), Image.Resampling.NEAREST, lossless=True)


def _webp(image: Image.Image, resampling: Image.Resampling = Image.Resampling.LANCZOS, lossless: bool = False) -> str:
    scale = min(1.0, LONGEST / max(image.size))
    if scale < 1:
        width, height = (max(1, round(scale * side)) for side in image.size)
        image = image.resize((width, height), resampling)
    encoded = io.BytesIO()
    image.save(encoded, format="WEBP", lossless=lossless, quality=QUALITY)
    return base64.b64encode(encoded.getvalue()).decode()


def _legend(label_map: LabelMap) -> list[dict[str, Any]]:
    rows = zip(label_map.names, label_map.colors, strict=True)
    return [{"name": name, "color": color, "blended": is_blended(color)} for name, color in rows]


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(
    index: ClipIndex,
    metrics: dict[str, Any],
    out: Path,
    data: dict[str, Any],
    manifest: Sequence[Entry],
    suggested: Sequence[str],
) -> str:
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    settings = dict(flat(metrics["settings"]))
    foretold = metrics.get("estimate", {}).get(settings["methods"][-1])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=out.resolve().name,
            summary=summary(index, metrics).replace("`", ""),
            limits=_limits(index, data),
            cuts=", ".join(f"{clip} {frame}" for clip, frame in cut_rows(manifest)),
            steps=[_with_code(step) for step in next_steps(index, metrics, manifest, suggested, str(out))],
            data=data,
            tables=_tables(index, metrics),
            estimates=_estimates(metrics),
            how_estimated=ESTIMATED.replace("*", ""),
            result=metrics["overall"][settings["methods"][-1]],
            method=settings["methods"][-1],
            audited=AUDITED,
            contradictions=contradiction_rows(metrics),
            contradicted=[(caption, _webp(picture)) for caption, picture in draw_contradictions(index, metrics)],
            continued=continued_lines(metrics),
            changed=changed_rows(metrics),
            student=metrics.get("student"),
            estimated=format_estimate(foretold) if foretold is not None else None,
            versions=metrics["settings"].get("versions", {}),
            settings=shown_settings(metrics),
            seconds=seconds_of_stages(metrics),
            flow_is_part=FLOW_IS_PART,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            # The page may run only this script, whatever the names of clips and classes contain.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _with_code(text: str) -> Markup:
    """Return a paragraph of Markdown with what stands between backticks as code, which is not broken at hyphens."""
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in parts)


def _limits(index: ClipIndex, data: dict[str, Any]) -> str:
    """Say what was left out of the page; empty if nothing was."""
    clips, frames = len(data["clips"]), sum(len(clip["frames"]) for clip in data["clips"])
    total = sum(len(clip["miou"]) for clip in data["clips"])
    parts = []
    if clips < len(index.clips):
        parts.append(f"This page shows only the {clips} lowest-scoring of {len(index.clips)} clips.")
    if frames < total:
        parts.append(
            f"Pictures of only {frames} of the {total} frames are included, to keep the file small: the worst frames, "
            "keyframes, and evenly spaced others. The curves show all frames."
        )
    return " ".join(parts)


def _tables(index: ClipIndex, metrics: dict[str, Any]) -> dict[str, Table]:
    """Return the tables by their titles; none without held-out frames."""
    if not any(clip.held_out for clip in index.clips):
        return {}
    tables = {
        "mIoU by method and distance to the nearest keyframe (d, frames; some distances)": overall_rows(metrics),
        "mIoU by region": region_rows(metrics),
        "IoU by class": class_rows(metrics),
    }
    return tables | ({"mIoU by clip": clip_rows(metrics)} if len(index.clips) > 1 else {})


def _estimates(metrics: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of estimated scores by their titles; none without an estimate."""
    if "estimate" not in metrics:
        return {}
    return {"Estimated mIoU by method": estimate_rows(metrics), "Estimated IoU by class": estimated_class_rows(metrics)}
