"""LightningCLI with this package's modules, data modules and checks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import set_parsing_settings
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import CheckpointIO

# Imported so that their short names resolve: `--model RefinementModule`, `class_path: VideoDataModule`.
from wrp.callbacks.config import SaveConfig
from wrp.callbacks.panels import SegmentationPanels
from wrp.callbacks.pictures import ConfusionPicture
from wrp.callbacks.writer import LabelWriter
from wrp.checkpoints import WholeCheckpointIO
from wrp.data.datamodule import VideoDataModule
from wrp.data.imagemodule import ImageDataModule
from wrp.data.semi import SemiDataModule
from wrp.modules.base import SAFE, BaseModule, check_class, imports_limited, read_checkpoint, trusted_packages
from wrp.modules.propagation import PropagationModule
from wrp.modules.refinement import RefinementModule
from wrp.modules.segmentation import SegmentationModule
from wrp.selftraining.cisc_r import CiscModule
from wrp.selftraining.student import StudentModule
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch import UniMatchModule
from wrp.types import WrpError

MODULES = (
    SegmentationModule,
    RefinementModule,
    PropagationModule,
    StudentModule,
    CiscModule,
    ThreeStageModule,
    UniMatchModule,
)
DATA_MODULES = (VideoDataModule, ImageDataModule, SemiDataModule)
CALLBACKS = (LabelWriter, ConfusionPicture, SegmentationPanels)

# Loggers whose package is an extra of this one.
LOGGERS = {"WandbLogger": (RequirementCache("wandb>=0.22,<1"), "wandb")}


class WrpCLI(LightningCLI):
    """LightningCLI in subclass mode; the data's number of classes becomes the model's."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what data and model must agree on."""
        parser.link_arguments("data.init_args.num_classes", "model.init_args.num_classes")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the Trainer, with checkpoints that are written whole unless the configuration has a way of its own."""
        plugins = _listed(self._get(self.config_init, "trainer.plugins", []))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*(plugin for plugin in plugins if plugin is not None), WholeCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def before_instantiate_classes(self) -> None:
        """Check what Lightning would find out late, or never."""
        config = self.config[self.config.subcommand]
        for logger in _listed(config.trainer.logger):
            name = str(getattr(logger, "class_path", "")).rsplit(".", 1)[-1]
            installed, extra = LOGGERS.get(name, (True, ""))
            if not installed:
                raise WrpError(f"{name} needs a package that is not installed: pip install 'wrp[{extra}]'")

    def _parse_ckpt_path(self) -> None:
        """Compare a checkpoint with the configuration before Lightning lets it replace the model."""
        config = self.config[self.config.subcommand]
        path = config.get("ckpt_path")
        if path and Path(path).is_file() and config.get("model"):
            _compare(Path(path), config.model)
        elif path and path not in ("last", "best", "hpc", "registry") and "://" not in path and not Path(path).exists():
            raise WrpError(f"there is no checkpoint {path}")
        if os.environ.get("WRP_SAFE"):
            super()._parse_ckpt_path()
            return
        with imports_limited(*_import_paths(config.as_dict())):  # what the configuration names may be named again
            super()._parse_ckpt_path()


def run(args: list[str] | None) -> WrpCLI:
    """Run one of LightningCLI's verbs; ``args`` None: those of the process.

    With the environment variable ``WRP_SAFE`` set to 1, or to names of further packages with commas, a configuration
    can have nothing imported but those in :data:`SAFE` and these.
    """
    if os.environ.get("WRP_SAFE"):
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*SAFE, *trusted_packages()])
    return WrpCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_callback=SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={"description": "Warp-Refine Propagation"},
        args=args,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _import_paths(value: Any) -> Iterator[str]:
    """The texts in a configuration that may name something to import."""
    if isinstance(value, str):
        parts = value.split(".")
        if all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse":
            yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _import_paths(part)


def _compare(path: Path, model: Any) -> None:
    """Refuse the checkpoint of another class; warn where its settings replace those given."""
    checkpoint = read_checkpoint(path, mmap=True)
    saved = checkpoint.get("hyper_parameters", {})
    if not isinstance(saved, dict):
        raise WrpError(f"{path} cannot be read as a checkpoint: its hyper_parameters are a {type(saved).__name__}")
    module, name = model.class_path.rsplit(".", 1)
    wanted = getattr(import_module(module), name)
    if issubclass(wanted, BaseModule):
        check_class(checkpoint, wanted, path)
    given = model.get("init_args") or {}
    for key, value in saved.items():
        if key in given and given[key] != value and not isinstance(value, list | dict):
            warnings.warn(
                f"{key}={value!r} of {path} replaces the {given[key]!r} of the configuration", UserWarning, stacklevel=2
            )
