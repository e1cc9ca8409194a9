"""Log frames with their truth and prediction, and the IoU of each class by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from wrp.structures import IGNORE_INDEX, FrameBatch, LabelMap, Prediction


class SegmentationPanels(pl.Callback):
    """Log the first frames of each validation of a SegmentationModule to W&B or TensorBoard.

    W&B gets the frames with truth and prediction as masks, TensorBoard the three pictures side by side. After a test,
    both get a table of the IoU of each class. Nothing is logged to other loggers.

    Args:
        frames: How many frames are logged.

    Example:
        >>> trainer = pl.Trainer(callbacks=[SegmentationPanels(frames=2)], logger=False, enable_checkpointing=False)
        >>> [callback.frames for callback in trainer.callbacks if isinstance(callback, SegmentationPanels)]
        [2]
    """

    def __init__(self, frames: int = 4) -> None:
        self.frames = frames
        self._left = 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the count of frames; log none in a sanity check, and only in the first process."""
        self._left = 0 if trainer.sanity_checking or not trainer.is_global_zero else self.frames

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: FrameBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the frames of a batch, until the number of frames is reached."""
        if self._left < 1:
            return
        label_map: LabelMap = trainer.datamodule.label_map  # type: ignore[attr-defined]
        predicted: list[Prediction] = pl_module.predict_step(batch, batch_idx)
        for number, result in enumerate(predicted[: self._left]):
            image = batch.images[number].permute(1, 2, 0).cpu().numpy()
            maps = {"truth": batch.labels[number].cpu().numpy(), "prediction": result.labels.cpu().numpy()}
            name = f"{result.clip} {result.stem}".strip()
            for logger in trainer.loggers:
                _log_frame(logger, name, image, maps, label_map, trainer.global_step)
        self._left -= len(predicted)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the IoU of each class in percent, without classes absent from truth and prediction."""
        label_map: LabelMap = trainer.datamodule.label_map  # type: ignore[attr-defined]
        scores = {name: float(trainer.callback_metrics[f"test/iou_{i}"]) for i, name in enumerate(label_map.names)}
        rows: list[list[Any]] = [[name, round(100 * iou, 2)] for name, iou in scores.items() if not np.isnan(iou)]
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, WandbLogger):
                logger.log_table("test/classes", ["class", "IoU"], rows)
            elif isinstance(logger, TensorBoardLogger):
                lines = ["| class | IoU |", "|---|---:|", *(f"| {name} | {iou} |" for name, iou in rows)]
                logger.experiment.add_text("test/classes", "\n".join(lines), trainer.global_step)


def _log_frame(
    logger: Any, name: str, image: np.ndarray, maps: dict[str, np.ndarray], label_map: LabelMap, step: int
) -> None:
    if isinstance(logger, WandbLogger):
        classes = dict(enumerate(label_map.names)) | {IGNORE_INDEX: "(none)"}
        masks = {which: {"mask_data": labels, "class_labels": classes} for which, labels in maps.items()}
        logger.log_image("val/frames", [image], caption=[name], masks=[masks])
    elif isinstance(logger, TensorBoardLogger):
        panel = np.hstack([image, *(label_map.colorize(labels) for labels in maps.values())])
        logger.experiment.add_image(f"val/{name}", panel, step, dataformats="HWC")
