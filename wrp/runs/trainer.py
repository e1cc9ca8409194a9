"""The Trainer's arguments in a run of several stages."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from wrp.errors import WrpError, did_you_mean
from wrp.io.checkpoints import imports_safe
from wrp.options import MAX_PROCESSES, read_shard
from wrp.runs.mistakes import explain

RESERVED = {
    **dict.fromkeys(("max_steps", "max_epochs", "min_steps", "min_epochs", "max_time"), "--teacher-steps and others"),
    **dict.fromkeys(("limit_predict_batches", "fast_dev_run", "overfit_batches"), "--limit, --teacher-steps"),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches"), "--teacher-steps and others"),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"), "`wrp fit`"),
    **dict.fromkeys(("enable_checkpointing", "enable_model_summary", "plugins", "barebones"), "`wrp fit`"),
    **dict.fromkeys(("use_distributed_sampler", "reload_dataloaders_every_n_epochs", "inference_mode"), "`wrp fit`"),
    **dict.fromkeys(("default_root_dir", "model_registry"), "--out"),
}
"""Arguments of the Trainer that a run sets itself, with what to use instead."""

# Arguments that are objects, and the class that they are made from by a class_path.
_OBJECTS: dict[str, type] = {"logger": Logger, "callbacks": pl.Callback, "profiler": Profiler, "strategy": Strategy}


def check_trainer(given: Mapping[str, Any], shard: str | None = None) -> dict[str, Any]:
    """Check arguments of the Trainer against its signature, and add the defaults of a run.

    Args:
        given: The arguments; loggers, callbacks, profilers and strategies as names, or with ``class_path`` and
            ``init_args``; dotted names set single ones, such as ``logger.save_dir``.
        shard: The run's shard, ``i/n``.

    Returns:
        The arguments with ``accelerator`` and ``devices``: one device of the machine's best kind; jobs that share a
        run take turns with the GPUs.

    Raises:
        WrpError: If an argument is unknown, set by the run itself, or of a wrong type.

    Example:
        >>> check_trainer({"accelerator": "cpu", "logger": "CSVLogger", "logger.save_dir": "runs"})["logger"]
        {'class_path': 'CSVLogger', 'init_args': {'save_dir': 'runs'}}
        >>> check_trainer({"device": 8})
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: the Trainer has no argument trainer.device; did you mean trainer.devices?
    """
    arguments = _nested(given)
    known = [name for name in signature(pl.Trainer).parameters if name not in RESERVED]
    for name in arguments:
        if name in RESERVED:
            raise WrpError(f"trainer.{name} is set by the run itself: use {RESERVED[name]} instead")
        if name not in known:
            meant = did_you_mean(f"trainer.{name}", [f"trainer.{one}" for one in known])
            meant = meant or f", expected one of {', '.join(known)}"
            raise WrpError(f"the Trainer has no argument trainer.{name}{meant}")
    arguments = {"accelerator": "auto", "devices": _one_device(shard)} | arguments
    try:
        _parser().parse_object({"trainer": {name: value for name, value in arguments.items() if name not in _OBJECTS}})
    except Exception as error:  # jsonargparse raises errors of several types
        raise WrpError(explain(str(error), [])) from error
    devices = arguments["devices"]
    if isinstance(devices, int | str) and str(devices).strip().isdecimal() and int(devices) > MAX_PROCESSES:
        raise WrpError(f"trainer.devices must be at most {MAX_PROCESSES}, got {devices}")
    loggers = list(_loggers(arguments, {"save_dir": "logs"}, {"prefix": "stage"}))
    for name in _OBJECTS:
        _made(name, loggers if name == "logger" else arguments.get(name), check_only=True)
    return arguments


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(pl.Trainer, "trainer")
    return parser


# Arguments on which results depend, with their neutral values.
_DECISIVE: dict[str, tuple[Any, ...]] = {
    "precision": (None, 32, "32", "32-true"),
    "gradient_clip_val": (None, 0),
    "gradient_clip_algorithm": (None,),
    "accumulate_grad_batches": (None, 1),
    "sync_batchnorm": (None, False),
}


def decisive(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments on which results depend: a run that is resumed must have the same.

    Example:
        >>> decisive({"devices": 8, "precision": "bf16-mixed", "accumulate_grad_batches": 1})
        {'precision': 'bf16-mixed'}
    """
    return {name: arguments[name] for name, neutral in _DECISIVE.items() if arguments.get(name) not in neutral}


def trainer_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with callbacks, as a list, profiler and strategy made, without the logger.

    Example:
        >>> made = trainer_arguments({"devices": 2, "callbacks": "DeviceStatsMonitor", "logger": "CSVLogger"})
        >>> made["devices"], [type(callback).__name__ for callback in made["callbacks"]]
        (2, ['DeviceStatsMonitor'])
    """
    made = {name: _made(name, value) for name, value in arguments.items() if name != "logger"}
    if "callbacks" in made:
        given = made["callbacks"]
        made["callbacks"] = given if isinstance(given, list) else [] if given is None else [given]
    return made


def make_loggers(arguments: Mapping[str, Any], stage: str, folder: Path) -> list[Logger]:
    """Make the loggers of a stage.

    Args:
        arguments: The Trainer's arguments.
        stage: Name of the stage, with which the names of all that is logged begin.
        folder: Where loggers write if nothing else is given.

    Example:
        >>> make_loggers({}, "teacher", Path("logs"))
        []
    """
    return [_made("logger", spec) for spec in _loggers(arguments, {"save_dir": str(folder)}, {"prefix": stage})]


def logger_folders(arguments: Mapping[str, Any]) -> list[Path]:
    """Return the folders that loggers are told to write to.

    Example:
        >>> logger_folders({"logger": "CSVLogger", "logger.save_dir": "mine"})
        [PosixPath('mine')]
    """
    given = (spec["init_args"].get("save_dir") for spec in _loggers(_nested(arguments), {}, {}))
    return [Path(str(folder)) for folder in given if folder is not None]


def _loggers(arguments: Mapping[str, Any], default: dict[str, Any], added: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the class path and the arguments of each logger."""
    given = arguments.get("logger") or []
    for one in given if isinstance(given, list) else [given]:
        spec: dict[str, Any] = one if isinstance(one, dict) else {"class_path": "CSVLogger" if one is True else one}
        yield spec | {"init_args": default | spec.get("init_args", {}) | added}


def _made(name: str, value: Any, check_only: bool = False) -> Any:
    """Make the object that an argument names; plain values, such as the name of a strategy, stay as they are."""
    if isinstance(value, list) and name in _OBJECTS:
        return [_made(name, one, check_only) for one in value]
    named = isinstance(value, str) and name in ("logger", "callbacks")
    if name not in _OBJECTS or not (named or isinstance(value, dict)):
        return value
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(_OBJECTS[name], f"trainer.{name}")
    try:
        with imports_safe():
            parsed = parser.parse_object({"trainer": {name: value}})
            return None if check_only else parser.instantiate(parsed)[f"trainer.{name}"]
    except Exception as error:  # jsonargparse raises errors of several types, and the class its own
        said = explain(str(error), [])
        raise WrpError(said if said.startswith("--trainer.") else f"--trainer.{name}: {said}") from error


def _nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Join dotted names: ``logger`` and ``logger.save_dir`` become one class with arguments."""
    nested: dict[str, Any] = {}
    for name, value in sorted(given.items()):  # a class stands before its arguments
        part, _, inner = name.partition(".")
        if not inner:
            nested[part] = value
            continue
        spec = nested.get(part)
        if isinstance(spec, str):
            spec = {"class_path": spec, "init_args": {}}
        if not isinstance(spec, dict):
            raise WrpError(f"trainer.{name} is an argument of a class: give its name as trainer.{part}, too")
        spec.setdefault("init_args", {})[inner.removeprefix("init_args.")] = value
        nested[part] = spec
    return nested


def _one_device(shard: str | None) -> int | list[int]:
    count = torch.cuda.device_count()
    return [read_shard(shard, "--shard")[0] % count] if shard is not None and count > 1 else 1


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Send progress bars to standard error, and silence hints on hardware and loaders, which the run has chosen."""
    loggers = {name: logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        # The number of workers is the user's choice; small clips are read faster than workers start.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The frozen teacher is meant to be in evaluation mode.
        warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")
        # Intervals are not batches, so Lightning finds no indices; the results name their frames themselves.
        warnings.filterwarnings("ignore", message="Couldn't infer the batch indices.*")
        # The stages of a run log to one run of W&B.
        warnings.filterwarnings("ignore", message="There is a wandb run already in progress.*")
        # Lightning itself uses a deprecated call of torch.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        try:
            yield
        finally:
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
