"""LightningCLI with this package's modules, data modules and checks."""

from __future__ import annotations

import os
import sys
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
from pytorch_lightning.strategies import Strategy

# Imported so that their short names resolve: `--model RefinementModule`, `class_path: VideoDataModule`.
from wrp.callbacks.config import SaveConfig
from wrp.callbacks.panels import SegmentationPanels
from wrp.callbacks.pictures import ConfusionPicture
from wrp.callbacks.stopping import StopWhenTold
from wrp.callbacks.writer import LabelWriter
from wrp.checkpoints import WholeCheckpointIO
from wrp.data.datamodule import VideoDataModule
from wrp.data.imagemodule import ImageDataModule
from wrp.data.semi import SemiDataModule
from wrp.errors import WrpError
from wrp.hubs import hubs_limited, texts_in
from wrp.modules.base import BaseModule
from wrp.modules.loading import SAFE, check_class, imports_limited, read_checkpoint, trusted_packages
from wrp.modules.refinement import RefinementModule
from wrp.modules.segmentation import SegmentationModule
from wrp.propagation.module import PropagationModule
from wrp.selftraining.cisc_r import CiscModule
from wrp.selftraining.student import StudentModule
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch import UniMatchModule

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

    _named: list[str] | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what data and model must agree on."""
        parser.link_arguments("data.init_args.num_classes", "model.init_args.num_classes")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the Trainer, with checkpoints that are written whole unless the configuration has a way of its own.

        It stops when it is told to.
        """
        plugins = _listed(self._get(self.config_init, "trainer.plugins", []))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*(plugin for plugin in plugins if plugin is not None), WholeCheckpointIO()]
        callbacks = _listed(self._get(self.config_init, "trainer.callbacks", []))
        kwargs["callbacks"] = [*(callback for callback in callbacks if callback is not None), StopWhenTold()]
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
        if not path:
            return
        safe = bool(os.environ.get("WRP_SAFE"))
        remote = "://" in path or (path.startswith("registry") and not Path(path).exists())
        if Path(path).is_dir():
            raise WrpError(f"ckpt_path {path} is a folder, of which Lightning would run what it holds; expected a file")
        if safe and remote:
            raise WrpError(f"ckpt_path {path} is no local file, and others are not read with --safe: download it first")
        if Path(path).is_file() and config.get("model"):
            _compare(Path(path), config.model)
        elif path not in ("last", "best", "hpc") and not remote and not Path(path).exists():
            raise WrpError(f"there is no checkpoint {path}")
        given = config.as_dict()  # what the configuration names may be named again
        self._named = list(texts_in(given))
        with imports_limited(*_import_paths(given)):
            super()._parse_ckpt_path()

    def instantiate_classes(self) -> None:
        """Make trainer, model and data; names that only the checkpoint has are asked of no hub."""
        if self._named is None:
            super().instantiate_classes()
            return
        with hubs_limited(self._named):
            super().instantiate_classes()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and which of the Trainer's arguments are none of theirs: no checkpoint may run anything."""
        return {verb: {*skipped, "weights_only"} for verb, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Also for a CheckpointIO of the configuration's own; Lightning would trust what comes from an address."""
        strategy = self.trainer.strategy
        if self._named is not None and type(strategy).load_checkpoint is not Strategy.load_checkpoint:
            raise WrpError(
                f"{type(strategy).__name__} reads checkpoints in a way of its own, which may run what they hold: leave "
                "out --ckpt_path, or use another --trainer.strategy, such as ddp"
            )
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}


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
        save_config_kwargs={"save_to_log_dir": False, "read": _files(sys.argv[1:] if args is None else args)},
        parser_kwargs={"description": "Warp-Refine Propagation"},
        args=args,
    )


def _files(args: list[str]) -> list[Path]:
    """The files among the arguments of a command."""
    named = [Path(arg.rpartition("=")[2]) for arg in args]
    return [path.resolve() for path in named if path.is_file()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _import_paths(value: Any) -> Iterator[str]:
    """The classes that a configuration names."""
    if isinstance(value, dict):
        path = value.get("class_path")
        parts = path.split(".") if isinstance(path, str) else []
        if parts and all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse":
            yield ".".join(parts)
        for part in value.values():
            yield from _import_paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
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
