"""Log frames with their truth and prediction, and the IoU of each class by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from wrp.errors import WrpError
from wrp.structures import IGNORE_INDEX, FrameBatch, LabelMap, Prediction


class SegmentationPanels(pl.Callback):
    """Log the first frames of each validation of a SegmentationModule to W&B or TensorBoard.

    W&B gets the frames of a validation as one list of images with truth and prediction as masks, TensorBoard the three
    pictures of each frame side by side. After a test, both get a table of the IoU of each class. Nothing is logged to
    other loggers.

    Args:
        frames: How many frames are logged.

    Raises:
        WrpError: If the data module has no names and colours of classes, or its batches are no FrameBatch.

    Example:
        >>> trainer = pl.Trainer(callbacks=[SegmentationPanels(frames=2)], logger=False, enable_checkpointing=False)
        >>> [callback.frames for callback in trainer.callbacks if isinstance(callback, SegmentationPanels)]
        [2]
    """

    def __init__(self, frames: int = 4) -> None:
        self.frames = frames
        self._shown: list[_Shown] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse data whose classes have no names and colours."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(getattr(data, "label_map", None), LabelMap):
            raise WrpError(
                "SegmentationPanels needs names and colours of classes: use a data module of this package or one with "
                f"a LabelMap as its attribute label_map, got a {type(data).__name__}, or leave the callback out"
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the frames of the validation before."""
        self._shown = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: FrameBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep frames of the first process, until their number is reached; none in a sanity check."""
        left = self.frames - len(self._shown)
        if trainer.sanity_checking or not trainer.is_global_zero or left < 1:
            return
        if not isinstance(batch, FrameBatch):
            raise WrpError(
                f"SegmentationPanels shows the frames of a FrameBatch, got a {type(batch).__name__}: leave it out"
            )
        predicted: list[Prediction] = pl_module.predict_step(batch, batch_idx)
        for number, result in enumerate(predicted[:left]):
            image = batch.images[number].permute(1, 2, 0).cpu().numpy()
            maps = {"truth": batch.labels[number].cpu().numpy(), "prediction": result.labels.cpu().numpy()}
            self._shown.append(_Shown(f"{result.clip} {result.stem}".strip(), image, maps))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the frames that were kept, all at once."""
        if self._shown:
            label_map: LabelMap = trainer.datamodule.label_map  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                _log_frames(logger, self._shown, label_map, trainer.global_step)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the IoU of each class in percent, without classes absent from truth and prediction."""
        label_map: LabelMap = trainer.datamodule.label_map  # type: ignore[attr-defined]
        scores = {name: float(trainer.callback_metrics[f"test/iou_{name}"]) for name in label_map.names}
        rows: list[list[Any]] = [[name, round(iou, 2)] for name, iou in scores.items() if not np.isnan(iou)]
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, WandbLogger):
                logger.log_table("test/classes", ["class", "IoU"], rows)
            elif isinstance(logger, TensorBoardLogger):
                lines = ["| class | IoU |", "|---|---:|", *(f"| {name} | {iou} |" for name, iou in rows)]
                logger.experiment.add_text("test/classes", "\n".join(lines), trainer.global_step)


class _Shown(NamedTuple):
    """A frame to log: image (H, W, 3) uint8, and truth and prediction (H, W) uint8 by their names."""

    name: str
    image: np.ndarray
    maps: dict[str, np.ndarray]


def _log_frames(logger: Any, frames: Sequence[_Shown], label_map: LabelMap, step: int) -> None:
    if isinstance(logger, WandbLogger):
        classes = dict(enumerate(label_map.names)) | {IGNORE_INDEX: "(none)"}
        masks = [
            {which: {"mask_data": labels, "class_labels": classes} for which, labels in frame.maps.items()}
            for frame in frames
        ]
        images, names = [frame.image for frame in frames], [frame.name for frame in frames]
        logger.log_image("val/frames", images, caption=names, masks=masks)
    elif isinstance(logger, TensorBoardLogger):
        for frame in frames:
            panel = np.hstack([frame.image, *(label_map.colorize(labels) for labels in frame.maps.values())])
            logger.experiment.add_image(f"val/{frame.name}", panel, step, dataformats="HWC")
