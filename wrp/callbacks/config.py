"""Each run keeps its whole configuration."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from wrp.writing import write_text


class SaveConfig(SaveConfigCallback):
    """Write the configuration into the run's own folder, and push it in full to W&B.

    Lightning's callback knows no folder of a run where the logger is not CSVLogger or TensorBoardLogger, so that runs
    into one ``save_dir`` overwrite the file of one another.
    """

    _folder = Path()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the folder, which every process has to do, and save in one of them."""
        self._folder = Path(trainer.log_dir or ".")
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save where the run keeps its checkpoints, too."""
        folder, text = self._folder, self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                folder = folder / str(logger.name) / str(logger.version)
                logger.experiment.config.update({"config": yaml.safe_load(text)}, allow_val_change=True)
        write_text(folder / self.config_filename, text)
