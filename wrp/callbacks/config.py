"""Each run keeps its whole configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from wrp.io.folders import check_file, check_place
from wrp.io.writing import write_text

# By which a copy that may be replaced is known.
HEADER = "# The whole configuration of a run, written by `wrp`.\n"


class SaveConfig(SaveConfigCallback):
    """Write the configuration into the run's own folder, and push it in full to W&B.

    Lightning's callback knows no folder of a run where the logger is not CSVLogger or TensorBoardLogger, so that runs
    into one ``save_dir`` overwrite the file of one another.
    """

    _folder = Path()

    def __init__(self, *args: Any, read: Sequence[Path] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read = read  # files among the arguments, which the copy does not replace

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the folder, which every process has to do, and save in one of them."""
        self._folder = Path(trainer.log_dir or ".")
        reads = {*self.read, *getattr(trainer.datamodule, "reads", ())}  # type: ignore[attr-defined]
        # Without a logger it is a folder of the user's. In every process: where one alone stops, others wait for it.
        check_file(self._folder / self.config_filename, _is_ours, reads, "the copy of the configuration")
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse checkpoints among the data."""
        for callback in trainer.checkpoint_callbacks:
            if folder := getattr(callback, "dirpath", None):
                reads = getattr(trainer.datamodule, "reads", ())  # type: ignore[attr-defined]
                check_place(Path(folder), reads, "the folder of checkpoints")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save where the run keeps its checkpoints, too."""
        folder, text = self._folder, self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                folder = folder / str(logger.name) / str(logger.version)
                logger.experiment.config.update({"config": yaml.safe_load(text)}, allow_val_change=True)
        write_text(folder / self.config_filename, HEADER + text)


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").startswith(HEADER)
    return False
