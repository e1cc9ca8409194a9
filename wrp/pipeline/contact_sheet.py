"""A picture of the frames that are suggested, with what the run made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wrp.data.reading import read_confidence, read_image, read_label
from wrp.pipeline.report import CAPTION_HEIGHT
from wrp.pipeline.suggest import Suggestion
from wrp.types import LabelMap

TILE_WIDTH = 320

# Suggestions on the sheet: the first ones, so that its size is bounded.
MOST_ROWS = 20


def draw_contact_sheet(suggestions: Sequence[Suggestion], label_map: LabelMap, out: Path) -> Image.Image:
    """A row for each suggestion: frame, labels and confidence, white where certain, 320 pixels wide each."""
    rows = [_row(rank, s, label_map, out) for rank, s in enumerate(suggestions[:MOST_ROWS], 1)]
    sheet = Image.new("RGB", (3 * TILE_WIDTH, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(rank: int, suggestion: Suggestion, label_map: LabelMap, out: Path) -> Image.Image:
    name = Path(suggestion.clip.name, f"{suggestion.stem}.png")
    image = read_image(suggestion.clip.frames[suggestion.index].image).permute(1, 2, 0).numpy()
    size = (image.shape[0], image.shape[1])
    labels = label_map.colorize(read_label(out / "labels" / name, label_map.written, size).numpy())
    confidence = (read_confidence(out / "confidence" / name, size).numpy() * 255).round().astype(np.uint8)
    height = max(1, round(TILE_WIDTH * size[0] / size[1]))
    row = Image.new("RGB", (3 * TILE_WIDTH, height + CAPTION_HEIGHT), "white")
    caption = f"{rank}. {suggestion.clip.name}/{suggestion.stem}: {suggestion.distance} frames from an anchor, mean "
    ImageDraw.Draw(row).text(
        (4, 1), f"{caption}confidence {suggestion.confidence:.3f}", fill="black", font=ImageFont.load_default(13)
    )
    for column, pixels in enumerate((image, labels, confidence)):
        nearest = pixels is labels  # mixed colours would be those of other classes
        tile = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        tile = tile.resize((TILE_WIDTH, height), Image.Resampling.NEAREST if nearest else Image.Resampling.BOX)
        row.paste(tile, (column * TILE_WIDTH, CAPTION_HEIGHT))
    return row
