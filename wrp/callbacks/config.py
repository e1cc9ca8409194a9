"""Each run keeps its whole configuration."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from wrp.outputs import check_file
from wrp.writing import write_text

# By which a copy that may be replaced is known.
HEADER = "# The whole configuration of a run, written by `wrp`.\n"


class SaveConfig(SaveConfigCallback):
    """Write the configuration into the run's own folder, and push it in full to W&B.

    Lightning's callback knows no folder of a run where the logger is not CSVLogger or TensorBoardLogger, so that runs
    into one ``save_dir`` overwrite the file of one another.
    """

    _folder = Path()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the folder, which every process has to do, and save in one of them."""
        self._folder = Path(trainer.log_dir or ".")
        given = self.config.get("config") or []
        read = [Path(str(path)).resolve() for path in (given if isinstance(given, list) else [given])]
        # Without a logger it is a folder of the user's. In every process: where one alone stops, others wait for it.
        check_file(self._folder / self.config_filename, _is_ours, read, "the configuration's copy")
        super().setup(trainer, pl_module, stage)

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
