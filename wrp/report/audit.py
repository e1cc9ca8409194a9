"""What the report says of keyframes whose labels contradict those of their neighbours: possible labelling mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wrp.data.index import ClipIndex
from wrp.io.images import read_frame_label, read_image
from wrp.io.palettes import CAPTION_HEIGHT, draw_labels
from wrp.io.tables import Table

AUDITED = (
    "Each keyframe between two others was labelled as if it had no label. In these regions the result is sure, but has "
    "another class than the keyframe's own label: that label is wrong, or that of a keyframe beside it, or motion has "
    "failed. The largest regions come first."
)
LISTED = 12
PICTURED = 6

# Least height and width of a cut-out, in pixels, and height of its picture.
LEAST = 64
HEIGHT = 180


def contradiction_rows(metrics: dict[str, Any]) -> Table:
    """Return a row for each of the largest regions in which a keyframe's label contradicts its neighbours'.

    Args:
        metrics: The content of ``metrics.json``.

    Example:
        >>> found = {"clip": "street", "frame": "000012", "own": "road", "other": "car", "box": [20, 40, 12, 9]}
        >>> contradiction_rows({"contradictions": [found | {"pixels": 90, "confidence": 0.97}]})[1]
        [['street/000012', 'road', 'car', '20, 40', '12 × 9', '90', '97.0']]
    """
    header = ["keyframe", "its label", "by its neighbours", "left, top", "size", "pixels", "confidence, %"]
    rows = []
    for one in metrics.get("contradictions", [])[:LISTED]:
        left, top, width, height = one["box"]
        row = [f"{one['clip']}/{one['frame']}", one["own"], one["other"], f"{left}, {top}", f"{width} × {height}"]
        rows.append([*row, str(one["pixels"]), f"{100 * one['confidence']:.1f}"])
    return header, rows


def draw_contradictions(index: ClipIndex, metrics: dict[str, Any]) -> list[tuple[str, Image.Image]]:
    """Draw the largest regions: the frame and its own label, cut out around each.

    Args:
        index: The clips of the run.
        metrics: The content of its ``metrics.json``.

    Returns:
        Caption and picture of each; regions of clips that are not there any more are left out.

    Raises:
        DataError: If a frame or its label cannot be read.
    """
    frames = {(clip.name, frame.stem): frame for clip in index.clips for frame in clip.frames}
    drawn = []
    for one in metrics.get("contradictions", [])[:PICTURED]:
        frame = frames.get((one["clip"], one["frame"]))
        if frame is None or frame.label is None:
            continue
        image = read_image(frame.image).permute(1, 2, 0).numpy()
        own = draw_labels(read_frame_label(frame, index.label_map).numpy(), index.label_map)
        caption = f"{one['clip']}/{one['frame']}: {one['own']}, by its neighbours {one['other']}"
        drawn.append((caption, _cut_out([image, own], one["box"], [frame.stem, f"its label: {one['own']}"])))
    return drawn


def _cut_out(pictures: Sequence[np.ndarray], box: Sequence[int], captions: Sequence[str]) -> Image.Image:
    """Cut the surroundings of a box out of pictures (H, W, 3) uint8, side by side, and frame the box."""
    height, width = pictures[0].shape[:2]
    left, top, across, down = box
    side = [min(width, max(LEAST, 2 * across)), min(height, max(LEAST, 2 * down))]
    x = min(max(0, left + across // 2 - side[0] // 2), width - side[0])
    y = min(max(0, top + down // 2 - side[1] // 2), height - side[1])
    scale = HEIGHT / side[1]
    size = (round(side[0] * scale), HEIGHT)
    panel = Image.new("RGB", (len(pictures) * size[0], HEIGHT + CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(panel)
    around = [round(scale * v) for v in (left - x, top - y, left + across - x, top + down - y)]
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        part = Image.fromarray(np.ascontiguousarray(picture[y : y + side[1], x : x + side[0]]))
        at = number * size[0]
        panel.paste(part.resize(size, Image.Resampling.NEAREST), (at, CAPTION_HEIGHT))
        draw.text((at + 4, 1), caption, fill="black", font=ImageFont.load_default(13))
        for wider, color in ((1, "black"), (0, "white")):
            corners = (around[0] - wider, around[1] - wider, around[2] + wider, around[3] + wider)
            draw.rectangle([v + (at, CAPTION_HEIGHT)[i % 2] for i, v in enumerate(corners)], outline=color)
    return panel
