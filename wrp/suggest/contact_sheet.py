"""Draw the suggested frames with their labels and confidence by the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wrp.io.images import read_confidence, read_image, read_label
from wrp.io.palettes import CAPTION_HEIGHT, CONFIDENCE, draw_labels
from wrp.structures import LabelMap
from wrp.suggest.suggestions import Suggestion

TILE_WIDTH = 320

# Number of suggestions on the sheet at most, which bounds its size.
MOST_ROWS = 20


def draw_contact_sheet(suggestions: Sequence[Suggestion], label_map: LabelMap, out: Path) -> Image.Image:
    """Draw a legend, and for each of the first 20 suggestions a row of frame, labels and confidence.

    Args:
        suggestions: The suggestions, best first.
        label_map: The classes of the run.
        out: Folder of the run.

    Returns:
        An RGB picture 960 pixels wide.

    Raises:
        DataError: If a frame or a file of the run is missing or damaged.

    Example:
        >>> classes = LabelMap(ids=(0,), names=("road",), colors=((128, 64, 128),))
        >>> draw_contact_sheet([], classes, Path("out")).size
        (960, 40)
    """
    rows = [_row(rank, s, label_map, out) for rank, s in enumerate(suggestions[:MOST_ROWS], 1)]
    rows.insert(0, _legend(label_map))
    sheet = Image.new("RGB", (3 * TILE_WIDTH, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _legend(label_map: LabelMap) -> Image.Image:
    """Draw the titles of the columns, and the colours of the classes in as many lines as needed."""
    font = ImageFont.load_default(13)
    picture = Image.new("RGB", (3 * TILE_WIDTH, CAPTION_HEIGHT * (2 + len(label_map.names))), "white")
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(
        ("frame", "labels (grey checks: none)", "confidence (bright: certain, dark: uncertain)")
    ):
        draw.text((column * TILE_WIDTH + 4, 1), title, fill="black", font=font)
    left, top = 4, CAPTION_HEIGHT
    for name, color in zip(label_map.names, label_map.colors, strict=True):
        width = CAPTION_HEIGHT + round(draw.textlength(name, font)) + 12
        if left + width > picture.width and left > 4:
            left, top = 4, top + CAPTION_HEIGHT
        draw.rectangle((left, top + 3, left + 12, top + 15), fill=tuple(color), outline="grey")
        draw.text((left + CAPTION_HEIGHT, top + 1), name, fill="black", font=font)
        left += width
    return picture.crop((0, 0, picture.width, top + CAPTION_HEIGHT + 4))


def _colored(confidence: np.ndarray) -> np.ndarray:
    """Colour confidence (H, W) in [0, 1] as in the report, (H, W, 3) uint8."""
    places = np.linspace(0, 1, len(CONFIDENCE))
    channels = [np.interp(confidence, places, channel) for channel in np.transpose(CONFIDENCE)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _row(rank: int, suggestion: Suggestion, label_map: LabelMap, out: Path) -> Image.Image:
    name = Path(suggestion.clip.name, f"{suggestion.stem}.png")
    image = read_image(suggestion.clip.frames[suggestion.index].image).permute(1, 2, 0).numpy()
    size = (image.shape[0], image.shape[1])
    labels = draw_labels(read_label(out / "labels" / name, label_map.written, size).numpy(), label_map)
    confidence = _colored(read_confidence(out / "confidence" / name, size).numpy())
    height = max(1, round(TILE_WIDTH * size[0] / size[1]))
    row = Image.new("RGB", (3 * TILE_WIDTH, height + CAPTION_HEIGHT), "white")
    caption = f"{rank}. {suggestion.clip.name}/{suggestion.stem}: {suggestion.distance} frames from a keyframe, mean "
    ImageDraw.Draw(row).text(
        (4, 1), f"{caption}confidence {suggestion.confidence:.3f}", fill="black", font=ImageFont.load_default(13)
    )
    for column, pixels in enumerate((image, labels, confidence)):
        nearest = pixels is labels  # mixed colours could be those of other classes
        tile = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        tile = tile.resize((TILE_WIDTH, height), Image.Resampling.NEAREST if nearest else Image.Resampling.BOX)
        row.paste(tile, (column * TILE_WIDTH, CAPTION_HEIGHT))
    return row
