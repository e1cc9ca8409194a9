"""A copy of the whole configuration in the folder of each run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import Logger, WandbLogger

from wrp.errors import WrpError
from wrp.io.outputs import check_file, check_place
from wrp.io.writing import write_text

# First line of the file: a file that begins with it may be replaced.
HEADER = "# The whole configuration of a run, written by `wrp`.\n"


class SaveConfig(SaveConfigCallback):
    """Write the configuration to the folder of the run, and send it in full to W&B.

    Lightning's callback knows the folder of a run only for CSVLogger and TensorBoardLogger. With other loggers, runs
    with the same ``save_dir`` overwrite each other's file. All other arguments are those of Lightning's callback.

    Args:
        read: Files named in the configuration, which the copy must not replace.

    Example:
        >>> from pytorch_lightning.cli import LightningArgumentParser
        >>> SaveConfig(LightningArgumentParser(), config={}).config_filename
        'config.yaml'
    """

    _folder = Path()

    def __init__(self, *args: Any, read: Sequence[Path] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read = read  # files among the arguments, which the copy must not replace

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find and check the folder in every process, then save the configuration in one of them.

        Raises:
            WrpError: If the copy would replace another file, or a project is called as the data set is.
        """
        self._folder = Path(trainer.log_dir or ".")
        data = {*getattr(trainer.datamodule, "reads", ())}  # type: ignore[attr-defined]
        # Without a logger it is the user's folder. All processes check: if one alone stopped, the others would wait.
        check_file(self._folder / self.config_filename, _is_ours, {*self.read, *data}, "the copy of the configuration")
        for logger in trainer.loggers[:1]:
            _check_name(logger, Path(trainer.default_root_dir), data)
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a checkpoint folder inside a folder that data are read from.

        Raises:
            WrpError: If a checkpoint callback has such a folder.
        """
        reads = getattr(trainer.datamodule, "reads", ())  # type: ignore[attr-defined]
        for callback in trainer.checkpoint_callbacks:
            if folder := getattr(callback, "dirpath", None):
                check_place(Path(folder), reads, "the folder of checkpoints")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration to the folder in which the run keeps its checkpoints."""
        # With the number of classes: the data may not tell it.
        folder, text = self._folder, self.parser.dump(self.config, skip_none=False, skip_link_targets=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                folder = folder / str(logger.name) / str(logger.version)
                logger.experiment.config.update({"config": yaml.safe_load(text)}, allow_val_change=True)
        write_text(folder / self.config_filename, HEADER + text)


def _check_name(logger: Logger, default: Path, reads: Iterable[Path]) -> None:
    """Refuse the first logger if its folder of checkpoints, named after the project, would be that of the data."""
    base = Path(logger.save_dir or default).resolve()
    folder = base / str(logger.name or "")
    if folder != base and any(folder in read.parents for read in reads):
        raise WrpError(
            f"checkpoints would be written to {folder}, where data are read from, as the project of the logger is "
            f"called {logger.name!r}: choose another name for it, or another --trainer.logger.save_dir"
        )


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").startswith(HEADER)
    return False
