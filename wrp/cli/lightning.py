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
from jsonargparse import Namespace, set_parsing_settings
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import Strategy

from wrp.callbacks.checkpoints import WholeCheckpointIO

# Imported so that their short names resolve: `--model RefinementModule`, `class_path: SegmentationData`.
from wrp.callbacks.config import SaveConfig
from wrp.callbacks.panels import SegmentationPanels
from wrp.callbacks.pictures import ConfusionPicture
from wrp.callbacks.stopping import StopWhenTold
from wrp.callbacks.writer import LabelWriter
from wrp.data.images import ImageData
from wrp.data.propagation import PropagationData
from wrp.data.refinement import RefinementData
from wrp.data.segmentation import SegmentationData
from wrp.data.semisupervised import SemiSupervisedData
from wrp.errors import WrpError
from wrp.io.checkpoints import (
    CLASS_KEY,
    SAFE,
    SETTINGS_KEY,
    WEIGHTS,
    check_class,
    class_name,
    imports_limited,
    read_checkpoint,
    trusted_packages,
)
from wrp.io.hubs import hubs_limited, texts_in
from wrp.module import BaseModule
from wrp.propagation.module import PropagationModule
from wrp.refinement.module import RefinementModule
from wrp.refinement.sampler import CycleExamples
from wrp.segmentation.module import SegmentationModule
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
DATA_MODULES = (SegmentationData, RefinementData, PropagationData, ImageData, SemiSupervisedData)
EXAMPLES = (CycleExamples,)
CALLBACKS = (LabelWriter, ConfusionPicture, SegmentationPanels)

# Loggers whose package is an extra of this one.
LOGGERS = {"WandbLogger": (RequirementCache("wandb>=0.22,<1"), "wandb")}


class WrpCLI(LightningCLI):
    """LightningCLI in subclass mode; the number of classes of the data is passed to the model.

    It is run by :func:`run`.

    Example:
        >>> sorted(WrpCLI.subcommands())
        ['fit', 'predict', 'test', 'validate']
    """

    _named: list[str] | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the number of classes of the model to that of the data."""
        parser.link_arguments("data.init_args.num_classes", "model.init_args.num_classes")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the Trainer; checkpoints are written atomically unless the configuration has a CheckpointIO of its own.

        The Trainer also stops after a signal to terminate the process.
        """
        plugins = _listed(self._get(self.config_init, "trainer.plugins", []))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*(plugin for plugin in plugins if plugin is not None), WholeCheckpointIO()]
        callbacks = _listed(self._get(self.config_init, "trainer.callbacks", []))
        kwargs["callbacks"] = [*(callback for callback in callbacks if callback is not None), StopWhenTold()]
        return super().instantiate_trainer(**kwargs)

    def before_instantiate_classes(self) -> None:
        """Refuse loggers whose package is not installed, which Lightning would notice late."""
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
            raise WrpError(f"ckpt_path {path} is a folder, from which code could be run; expected a checkpoint file")
        if path.endswith(WEIGHTS):
            raise WrpError(f"ckpt_path {path} contains weights only; expected the checkpoint they were taken from")
        if safe and remote:
            raise WrpError(f"ckpt_path {path} is not a local file, which --safe requires: download it first")
        if Path(path).is_file() and config.get("model"):
            _compare(Path(path), config.model)
        elif path not in ("last", "best", "hpc") and not remote and not Path(path).exists():
            raise WrpError(f"there is no checkpoint {path}")
        given = config.as_dict()  # the checkpoint may use the names that the configuration uses
        self._named = list(texts_in(given))
        if Path(path).is_file():
            with imports_limited(*_import_paths(given)):
                self._take_arguments(read_checkpoint(Path(path)))

    def _take_arguments(self, checkpoint: dict[str, Any]) -> None:
        """Take the model's arguments from a checkpoint, as Lightning does; also from one that was made in Python.

        Lightning expects the class among the arguments, where only its command line notes it.
        """
        arguments = dict(checkpoint.get(SETTINGS_KEY) or {})
        arguments.pop("_instantiator", None)
        made_by = arguments.pop("_class_path", checkpoint.get(CLASS_KEY))
        if not arguments or made_by is None:
            return
        model = {"class_path": made_by, "dict_kwargs": arguments}
        try:
            self.config = self.parser.parse_object({self.config.subcommand: {"model": model}}, self.config)
        except SystemExit:
            print("The arguments in the checkpoint do not fit the model.", file=sys.stderr)
            raise

    def instantiate_classes(self) -> None:
        """Make trainer, model and data; nothing is downloaded for names that only the checkpoint contains."""
        if self._named is None:
            super().instantiate_classes()
            return
        with hubs_limited(self._named):
            super().instantiate_classes()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands with the Trainer arguments that each leaves out; ``weights_only`` is always set."""
        return {verb: {*skipped, "weights_only"} for verb, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Set ``weights_only``, because Lightning would run code from checkpoints that it downloads."""
        strategy = self.trainer.strategy
        if self._named is not None and type(strategy).load_checkpoint is not Strategy.load_checkpoint:
            raise WrpError(
                f"{type(strategy).__name__} loads checkpoints by itself, which could run code from them: leave "
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
    if args is None:  # in place: the processes of a strategy are started with the same ones
        sys.argv[1:] = with_nulls(sys.argv[1:])
    else:
        args = with_nulls(args)
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


# Names of groups of arguments in models, data modules and sources of examples.
GROUPS = ("network", "optimizer", "inference", "select", "val", "sampling", "cycles", "keep", "propagated")


def with_nulls(args: list[str]) -> list[str]:
    """Rewrite arguments such as ``--model.network.arch=null`` as ``--model.network={arch: null}``.

    jsonargparse reads the null of an argument within a group as the text "None".

    Example:
        >>> with_nulls(["fit", "--model.network.arch=null", "--seed_everything=1"])
        ['fit', '--model.network={arch: null}', '--seed_everything=1']
    """
    found: list[str] = []
    for arg in args:
        if arg == "null" and found and found[-1].startswith("--") and "=" not in found[-1]:
            arg = f"{found.pop()}=null"
        group, _, name = arg.removesuffix("=null").rpartition(".")
        in_group = arg.startswith("--") and arg.endswith("=null") and group.rpartition(".")[2] in GROUPS
        found.append(f"{group}={{{name}: null}}" if in_group else arg)
    return found


def _files(args: list[str]) -> list[Path]:
    """Return the files among the arguments of a command."""
    named = [Path(arg.rpartition("=")[2]) for arg in args]
    return [path.resolve() for path in named if path.is_file()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _import_paths(value: Any) -> Iterator[str]:
    """Yield the import paths of the classes in a configuration, as written and as defined."""
    if isinstance(value, dict):
        path = value.get("class_path")
        parts = path.split(".") if isinstance(path, str) else []
        if parts and all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse":
            yield ".".join(parts)
            found = getattr(sys.modules.get(".".join(parts[:-1])), parts[-1], None)  # imported, if it is a class
            if isinstance(found, type):
                yield class_name(found)
        for part in value.values():
            yield from _import_paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _import_paths(part)


def _compare(path: Path, model: Any) -> None:
    """Refuse the checkpoint of another class; warn of settings in it that replace given ones."""
    checkpoint = read_checkpoint(path, mmap=True)
    saved = checkpoint.get("hyper_parameters", {})
    if not isinstance(saved, dict):
        raise WrpError(f"{path} cannot be read as a checkpoint: its hyper_parameters are a {type(saved).__name__}")
    module, name = model.class_path.rsplit(".", 1)
    wanted = getattr(import_module(module), name)
    if issubclass(wanted, BaseModule):
        check_class(checkpoint, wanted, path)
    given = model.get("init_args") or {}
    for name, value, theirs in _replaced(saved, given):
        warnings.warn(
            f"{name}={value!r} of {path} replaces the {theirs!r} of the configuration", UserWarning, stacklevel=2
        )


def _replaced(saved: dict[str, Any], given: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, saved value and given value of the arguments that differ, with those in groups."""
    for key, value in saved.items():
        if isinstance(value, dict) and key in given and isinstance(given[key], Namespace):
            yield from ((f"{key}.{name}", *both) for name, *both in _replaced(value, given[key]))
        # The checkpoint holds the weights of the encoder itself.
        elif key in given and key != "encoder_weights" and given[key] != value and not isinstance(value, list | dict):
            yield key, value, given[key]
