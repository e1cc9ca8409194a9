"""LightningCLI with this package's modules, data modules and checks."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError, Namespace
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, ReduceLROnPlateau, instantiate_class
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

# Imported so that their short names resolve: `--model RefinementModule`, `class_path: SegmentationData`.
from wrp.callbacks.best import BestScore
from wrp.callbacks.checkpoints import WholeCheckpointIO
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
from wrp.errors import WrpError, in_short
from wrp.flow import DIS, RAFT, Stored
from wrp.io.checkpoints import (
    CLASS_KEY,
    NETWORK_KEY,
    SETTINGS_KEY,
    WEIGHTS,
    check_class,
    check_network,
    class_name,
    imports_limited,
    imports_safe,
    read_checkpoint,
)
from wrp.io.hubs import hubs_limited, texts_in
from wrp.module import BaseModule
from wrp.propagation.module import PropagationModule
from wrp.refinement.module import RefinementModule
from wrp.refinement.sampler import CycleExamples
from wrp.runs.mistakes import explain
from wrp.segmentation.module import SegmentationModule
from wrp.selftraining.cisc_r import CiscModule
from wrp.selftraining.student import StudentModule
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch import UniMatchModule
from wrp.selftraining.unimatch_v2 import UniMatchV2Module

MODULES = (
    SegmentationModule,
    RefinementModule,
    PropagationModule,
    StudentModule,
    CiscModule,
    ThreeStageModule,
    UniMatchModule,
    UniMatchV2Module,
)
DATA_MODULES = (SegmentationData, RefinementData, PropagationData, ImageData, SemiSupervisedData)
EXAMPLES = (CycleExamples,)
CALLBACKS = (LabelWriter, ConfusionPicture, SegmentationPanels, BestScore)
FLOWS = (DIS, RAFT, Stored)

# Loggers whose package is an extra of this one.
LOGGERS = {"WandbLogger": (RequirementCache("wandb>=0.22,<1"), "wandb")}


class WrpCLI(LightningCLI):
    """LightningCLI in subclass mode; the model gets the number of classes of the data.

    It is run by :func:`run`.

    Example:
        >>> sorted(WrpCLI.subcommands())
        ['fit', 'predict', 'test', 'validate']
    """

    _named: list[str] | None = None

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose errors can be told on one line, and which takes no abbreviations."""
        return super().init_parser(**{**kwargs, "exit_on_error": False, "allow_abbrev": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments.

        Raises:
            WrpError: If they cannot be used; the message names the cause and the nearest known name.
        """
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            verb = next((arg for arg in args or sys.argv[1:] if arg in self._subcommand_parsers), "fit")
            actions = self._subcommand_parsers[verb]._actions  # argparse has no public list of its options
            options = ["--recipe", *(option for action in actions for option in action.option_strings)]
            cause = explain(str(error), options)
            raise WrpError(f"{cause}{'' if cause.endswith('?') else ';'} `wrp {verb} --help` shows all") from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the number of classes of the model to that of the data; tell of what stands for ``--config``."""
        for action in parser._actions:  # argparse has no public way to find one
            if "--config" in action.option_strings:
                action.help = f"{action.help} --recipe NAME takes one that comes with the package, see `wrp recipes`."
        parser.link_arguments("data", "model.init_args.num_classes", self._num_classes, apply_on="instantiate")

    def _num_classes(self, data: Any) -> int | None:
        """Return the model's number of classes: that of the data, or if they do not tell it, the one that was given."""
        arguments = self.config[self.config.subcommand].model.get("init_args") or {}
        given, found = arguments.get("num_classes"), getattr(data, "num_classes", None)
        if "num_classes" in arguments and given is found is None:
            raise WrpError(
                f"the number of classes is not known, as {type(data).__name__} has no num_classes: give "
                "model.init_args.num_classes"
            )
        if given is not None and found is not None and given != found:
            raise WrpError(f"the data have {found} classes, the model has num_classes={given}: leave that out")
        return found if given is None else given

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the Trainer; checkpoints are written atomically unless the configuration has a CheckpointIO of its own.

        The Trainer also stops after a signal to terminate the process, and logs its best score.

        Raises:
            WrpError: If the Trainer refuses its arguments.
        """
        plugins = _listed(self._get(self.config_init, "trainer.plugins", []))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*(plugin for plugin in plugins if plugin is not None), WholeCheckpointIO()]
        callbacks = _listed(self._get(self.config_init, "trainer.callbacks", []))
        callbacks = [callback for callback in callbacks if callback is not None]
        if not any(isinstance(callback, BestScore) for callback in callbacks):
            callbacks.append(BestScore())
        kwargs["callbacks"] = [*callbacks, StopWhenTold()]
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise WrpError(f"--trainer: {in_short(error)}") from error

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
            checkpoint, named = read_checkpoint(Path(path)), list(_import_paths(given))
            arguments = checkpoint.get(SETTINGS_KEY)
            network = config.get(f"model.init_args.{NETWORK_KEY}")
            if network is not None and isinstance(arguments, dict) and not _has_arguments(arguments.get(NETWORK_KEY)):
                arguments.pop(NETWORK_KEY, None)
            check_network(arguments, path, *named)
            with imports_limited(*named):
                self._take_arguments(checkpoint)

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
        except ArgumentError as error:
            cause = explain(str(error), [])
            raise WrpError(f"the arguments in the checkpoint do not fit the model: {cause}") from error

    def instantiate_classes(self) -> None:
        """Make trainer, model and data; nothing is downloaded for names that only the checkpoint contains."""
        if self._named is None:
            super().instantiate_classes()
            return
        with hubs_limited(self._named):
            super().instantiate_classes()

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Use the optimizer and the schedule of the command line with the model's own groups of parameters.

        Lightning would give all parameters one learning rate, and take no schedule without an optimizer.
        """
        model = self.model
        if getattr(type(model), "configure_optimizers", None) is not BaseModule.configure_optimizers:
            super()._add_configure_optimizers_method_to_model(subcommand)
            return
        optimizer, schedule = (self._get(self.config_init, name) for name in ("optimizer", "lr_scheduler"))
        if optimizer:
            model.lr = float(optimizer.init_args.lr)
            model.configure_optimizer = partial(instantiate_class, init=optimizer)
        if schedule:
            if model.optimizer.warmup:
                raise WrpError("model.optimizer.warmup is that of the poly schedule: leave it out with --lr_scheduler")
            model.configure_schedule = partial(_schedule, init=schedule)

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
    can have nothing imported but those in :data:`~wrp.io.checkpoints.SAFE` and these.

    Raises:
        WrpError: If the arguments, or the Trainer's configuration, cannot be used.
    """
    with imports_safe():
        return _run(args)


def _run(args: list[str] | None) -> WrpCLI:
    if args is None:  # in place: the processes of a strategy are started with the same ones
        sys.argv[1:] = with_nulls(sys.argv[1:])
    else:
        args = with_nulls(args)
    try:
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
    except (MisconfigurationException, RuntimeError) as error:
        # The first is Lightning's word for a mistake in what it was given; EarlyStopping raises the second for one.
        if isinstance(error, MisconfigurationException) or str(error).startswith("Early stopping conditioned"):
            raise WrpError(in_short(error)) from error
        raise


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


def _schedule(optimizer: Optimizer, init: Any) -> dict[str, Any]:
    """Make a schedule that is stepped after each epoch, as those of LightningCLI are."""
    schedule = instantiate_class(optimizer, init)
    monitor = {"monitor": schedule.monitor} if isinstance(schedule, ReduceLROnPlateau) else {}
    return {"scheduler": schedule, **monitor}


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


def _has_arguments(network: Any) -> bool:
    return isinstance(network, dict) and network.get("init_args") is not None


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
        if key == "num_classes" and given.get(key) is None:  # it is that of the data, and is compared with the model's
            continue
        if isinstance(value, dict) and key in given and isinstance(given[key], Namespace):
            yield from ((f"{key}.{name}", *both) for name, *both in _replaced(value, given[key]))
        # The checkpoint holds the weights of the encoder itself.
        elif key in given and key != "encoder_weights" and given[key] != value and not isinstance(value, list | dict):
            yield key, value, given[key]
