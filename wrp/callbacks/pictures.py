"""Picture of the confusion matrix of a test."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw, ImageFont

from wrp.io.outputs import check_file
from wrp.io.writing import write_image
from wrp.structures import LabelMap

CELL = 34  # pixels
NAMES = 130  # pixels

# Value of the PNG's "Software" entry: a picture with it may be replaced.
SOFTWARE = "wrp ConfusionPicture"


class ConfusionPicture(pl.Callback):
    """Draw the confusion matrix of a test of a SegmentationModule.

    Args:
        path: PNG file to write.

    Example:
        >>> ConfusionPicture("confusion.png").path.name
        'confusion.png'
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the path.

        Raises:
            WrpError: If the picture would replace another file, or lie in a folder that data are read from.
        """
        reads = getattr(trainer.datamodule, "reads", ())  # type: ignore[attr-defined]
        self.path = check_file(self.path, _is_ours, reads, "ConfusionPicture.path")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix, summed over all processes."""
        score = pl_module.test_score
        with score.sync_context(should_sync=torch.distributed.is_available() and torch.distributed.is_initialized()):  # type: ignore[union-attr, operator]
            matrix = score.matrix.cpu().numpy()  # type: ignore[union-attr, operator]
        if trainer.is_global_zero:
            picture = draw_confusion(matrix, trainer.datamodule.label_map)  # type: ignore[attr-defined]
            write_image(self.path, picture, SOFTWARE)


def _is_ours(path: Path) -> bool:
    # If Pillow raises an error, it is not a picture of this callback.
    with contextlib.suppress(Exception), Image.open(path, formats=["PNG"]) as picture:
        return picture.info.get("Software") == SOFTWARE
    return False


def draw_confusion(matrix: np.ndarray, label_map: LabelMap) -> Image.Image:
    """Draw a confusion matrix: rows are the truth, columns the prediction, in percent of the pixels of a row.

    Args:
        matrix: (C, C + 1) counts of pixels; the last column counts unlabelled predictions.
        label_map: The classes.

    Example:
        >>> label_map = LabelMap((0, 1), ("sky", "road"), ((70, 130, 180), (128, 64, 128)))
        >>> draw_confusion(np.array([[9, 1, 0], [2, 7, 1]]), label_map).size
        (240, 206)
    """
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    rows, columns = matrix.shape
    picture = Image.new("RGB", (NAMES + CELL * columns + 8, NAMES + CELL * rows + 8), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for i, name in enumerate((*label_map.names, "(none)")):
        text = Image.new("L", (NAMES - 10, 16), 0)
        ImageDraw.Draw(text).text((0, 0), name, fill=255, font=font)
        turned = text.rotate(90, expand=True)
        picture.paste("black", (NAMES + CELL * i + (CELL - 16) // 2, 5), turned.crop((0, 0, 16, NAMES - 10)))
        if i < rows:
            pen.text((5, NAMES + CELL * i + (CELL - 12) // 2), name, fill="black", font=font)
    for row in range(rows):
        for column in range(columns):
            share, left, top = shares[row, column], NAMES + CELL * column, NAMES + CELL * row
            # From white to blue; on the diagonal, correct predictions, from white to green.
            strong = (20, 120, 60) if row == column else (30, 60, 160)
            color = tuple(round(255 - (255 - channel) * share / 100) for channel in strong)
            pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=color, outline=(225, 225, 225))
            if share >= 0.5:
                ink = "white" if share > 55 else "black"
                pen.text((left + CELL // 2, top + CELL // 2), f"{share:.0f}", fill=ink, font=font, anchor="mm")
    return picture
