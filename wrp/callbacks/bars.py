"""Progress of a stage of a run: its name, how far it is, and the time that is left."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from wrp.io.progress import make_bar
from wrp.structures import ClipBatch


class StageBar(ProgressBar):
    """Show the progress of a training or a prediction on standard error, instead of Lightning's own bar.

    Training counts steps; prediction counts frames of intervals, or batches of anything else.

    Args:
        stage: What is done, in a word or two.

    Example:
        >>> StageBar("teacher").stage
        'teacher'
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self._bar: tqdm[Any] | None = None
        self._shown = True

    def disable(self) -> None:
        """Show nothing; Lightning calls this in every process but the first one."""
        self._shown = False

    def enable(self) -> None:
        """Show progress again."""
        self._shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count steps, those of an earlier call included."""
        self._open(trainer.max_steps, "step", trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count the steps so far."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count frames."""
        loader: Any = trainer.predict_dataloaders
        costs: list[int] | None = getattr(getattr(loader, "dataset", None), "costs", None)
        batches = int(sum(trainer.num_predict_batches))
        known = costs is not None and trainer.world_size == 1
        self._open(sum((costs or [])[:batches]) if known else None, "frame")

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the frames of an interval."""
        if self._bar is not None:
            self._bar.update(batch.queries[1] - batch.queries[0] if isinstance(batch, ClipBatch) else 1)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _open(self, total: int | None, unit: str, done: int = 0) -> None:
        if self._shown:
            self._bar = make_bar(desc=self.stage, total=total, unit=unit, initial=done)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
