"""The best score of a training, which sweeps compare."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from wrp.callbacks.best import BestScore
from wrp.errors import WrpError


class Scripted(pl.LightningModule):
    """Its validations score what they are told to."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = list(scores)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/miou", 99.0 if self.trainer.sanity_checking else self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: Scripted, logger: Any, epochs: int, callback: BestScore, **more: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=logger, max_epochs=epochs, callbacks=[callback], log_every_n_steps=1,
        enable_model_summary=False, enable_progress_bar=False, enable_checkpointing=False,
    )  # fmt: skip
    loader: Any = DataLoader(range(2))  # type: ignore[arg-type]
    trainer.fit(module, loader, loader, **more)
    return trainer


def logged(folder: str, key: str = "hp/miou") -> list[float]:
    with Path(folder, "metrics.csv").open(encoding="utf-8") as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def test_the_best_score_so_far_is_logged_and_not_that_of_the_sanity_check(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    fit(Scripted(30.0, float("nan"), 50.0, 40.0), logger, 4, BestScore())
    assert logged(logger.log_dir) == [30.0, 50.0, 50.0]


def test_a_resumed_training_remembers_its_best_score(tmp_path: Path) -> None:
    fit(Scripted(50.0), False, 1, BestScore()).save_checkpoint(tmp_path / "half.ckpt")
    logger = CSVLogger(str(tmp_path))
    fit(Scripted(0.0, 40.0, 60.0), logger, 3, BestScore(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert logged(logger.log_dir) == [50.0, 60.0]


def test_losses_are_better_the_smaller_they_are(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    fit(Scripted(3.0, 2.0, 5.0), logger, 3, BestScore("val/miou", mode="min"))
    assert logged(logger.log_dir) == [3.0, 2.0, 2.0]
    with pytest.raises(WrpError, match="must be max or min, got 'best'"):
        BestScore(mode="best")


def test_tensorboard_has_it_as_the_metric_of_the_hyper_parameters(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path))
    fit(Scripted(30.0, 20.0), logger, 2, BestScore())
    events = EventAccumulator(logger.log_dir).Reload()
    for tag in ("hp_metric", "hp/miou"):
        assert events.Scalars(tag)[-1].value == 30.0
