"""The best score of a training so far, by which runs are compared."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from wrp.errors import WrpError

PREFERRED = {"max": max, "min": min}


class BestScore(pl.Callback):
    """Log the best value of a validation score so far as ``hp/<score>``, such as ``hp/miou``.

    Its last value is that of the best validation, which is what a sweep should compare: W&B has it in the summary of a
    run. TensorBoard gets it as ``hp_metric`` as well, the column of its HPARAMS tab.

    Args:
        monitor: Name of the score. Trainings that do not log it are left alone.
        mode: Which values are better, ``max`` or ``min``.

    Raises:
        WrpError: If ``mode`` is neither.

    Example:
        >>> BestScore().name, BestScore("val/loss", mode="min").name
        ('hp/miou', 'hp/loss')
    """

    def __init__(self, monitor: str = "val/miou", mode: str = "max") -> None:
        if mode not in PREFERRED:
            raise WrpError(f"BestScore.mode must be max or min, got {mode!r}")
        self.monitor = monitor
        self.name = f"hp/{monitor.rpartition('/')[2]}"
        self.prefer = PREFERRED[mode]
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, so that a resumed training still knows it."""
        return {} if self.best is None else {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value from a checkpoint."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the best value so far; not after a sanity check, nor outside of a training."""
        score = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or score is None or score.isnan():
            return
        self.best = float(score) if self.best is None else self.prefer(self.best, float(score))
        for logger in trainer.loggers:
            more = {"hp_metric": self.best} if isinstance(logger, TensorBoardLogger) else {}
            logger.log_metrics({self.name: self.best} | more, trainer.global_step)
