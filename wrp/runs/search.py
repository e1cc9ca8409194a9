"""Run a W&B sweep file offline: the same file and command lines, with optuna in place of the W&B agent."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from wrp.errors import WrpError, check_choice, in_short
from wrp.io.locking import locked
from wrp.io.opening import parse_yaml, read_json, read_text
from wrp.io.outputs import SEARCH, check_output, claim
from wrp.io.tables import markdown_table
from wrp.io.writing import make_folder, remove_leftovers, write_json
from wrp.options import MAX_COUNT, MAX_SEED, check_range

logger = logging.getLogger("wrp")

DIRECTIONS = ("maximize", "minimize")
LOGGER_FLAG = "--trainer.logger="

RECORD = "search.json"
"""File of a search that holds its sweep, and values and result of each trial that is done."""


def read_sweep(path: Path) -> dict[str, Any]:
    """Read a sweep file as W&B defines it: ``command``, ``parameters`` and ``metric``.

    Raises:
        WrpError: If the file cannot be read, or a part of it is missing or of a kind that is not supported here.
    """
    try:
        sweep = parse_yaml(read_text(path))
    except ValueError as error:
        raise WrpError(f"{path} cannot be read as a sweep: {in_short(error)}") from error
    if not isinstance(sweep, dict) or (missing := [k for k in ("command", "parameters", "metric") if k not in sweep]):
        lacking = ", ".join(missing) if isinstance(sweep, dict) else "everything"
        raise WrpError(f"{path} is not a sweep with a command: it lacks {lacking}")
    goal = sweep["metric"].get("goal") if isinstance(sweep["metric"], dict) else None
    check_choice(f"metric.goal in {path}:", goal, DIRECTIONS)
    command = sweep["command"]
    if not isinstance(command, list) or command[:1] != ["wrp"] or "${args}" not in command:
        raise WrpError(f"{path}: command must begin with wrp and contain ${{args}}, got {command}")
    if not isinstance(sweep["parameters"], dict):
        raise WrpError(f"{path}: parameters must be a mapping of names, got {sweep['parameters']}")
    for name, parameter in sweep["parameters"].items():
        if not isinstance(name, str) or not _is_known(parameter):
            raise WrpError(f"{path}: parameter {name} needs value, values, or min and max, got {parameter}")
        _check_span(f"{path}: parameter {name}", parameter)
    return sweep


def _is_known(parameter: Any) -> bool:
    if not isinstance(parameter, dict):
        return False
    spans = {"min", "max"} <= set(parameter) and parameter.get("distribution", "uniform") in list(SPANS)
    values = parameter.get("values")
    return "value" in parameter or (isinstance(values, list) and bool(values)) or spans


def _check_span(what: str, parameter: dict[str, Any]) -> None:
    """Raise WrpError if no number can be drawn from min … max."""
    if "value" in parameter or "values" in parameter:
        return
    least, most, kind = parameter["min"], parameter["max"], parameter.get("distribution", "uniform")
    wanted = (int,) if kind == "int_uniform" else (int, float)
    for number in (least, most):
        if isinstance(number, bool) or not isinstance(number, wanted):
            raise WrpError(f"{what}: min and max must be of type {wanted[-1].__name__}, got {number!r}")
        check_range(f"{what}: min and max", number, -1e300, 1e300)
    if least > most or (kind == "log_uniform_values" and least <= 0):
        raise WrpError(f"{what}: expected min ≤ max, above 0 for log_uniform_values; got {least} and {most}")


def command_line(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Return the arguments after ``wrp`` for one run of a sweep, as the W&B agent would pass them.

    Example:
        >>> sweep = {"command": ["wrp", "fit", "--config", "fit.yaml", "${args}"]}
        >>> command_line(sweep, {"model.optimizer.lr": 0.01, "model.network.ocr": True})
        ['fit', '--config', 'fit.yaml', '--model.optimizer.lr=0.01', '--model.network.ocr=true']
    """
    arguments = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
    ]
    parts = ([str(part)] if part != "${args}" else arguments for part in sweep["command"][1:])
    return [argument for part in parts for argument in part]


# W&B's names of distributions, and the arguments with which optuna draws from them.
SPANS: dict[str, dict[str, Any]] = {"uniform": {}, "log_uniform_values": {"log": True}, "int_uniform": {}}


def draw(trial: Any, sweep: dict[str, Any]) -> dict[str, Any]:
    """Draw the values of a sweep's parameters for an optuna trial.

    Example:
        >>> draw(None, {"parameters": {"seed_everything": {"value": 3}}})
        {'seed_everything': 3}
    """
    values = {}
    for name, parameter in sweep["parameters"].items():
        if "value" in parameter:
            values[name] = parameter["value"]
        elif "values" in parameter:
            values[name] = trial.suggest_categorical(name, parameter["values"])
        else:
            kind = parameter.get("distribution", "uniform")
            suggest = trial.suggest_int if kind == "int_uniform" else trial.suggest_float
            values[name] = suggest(name, parameter["min"], parameter["max"], **SPANS[kind])
    return values


def search(path: Path, trials: int, out: Path, seed: int = 0) -> Any:
    """Run a sweep offline up to a number of trials; a CSVLogger logs each of them to ``out/trial-<n>``.

    A search that was stopped is resumed; the interrupted trial is repeated with the same values.

    Args:
        path: The sweep file.
        trials: Total number of completed trials, with those of earlier calls.
        out: Folder of the search.
        seed: Seed of the draws.

    Returns:
        The optuna study.

    Raises:
        WrpError: If the file is not a sweep, optuna is missing, a trial fails, or the folder holds another search.
    """
    check_range("--trials", trials, 0, MAX_COUNT)
    check_range("--seed", seed, 0, MAX_SEED)
    sweep = read_sweep(path)
    try:
        import optuna
    except ImportError as error:
        raise WrpError("wrp search needs optuna: pip install 'wrp[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    record = out / RECORD
    check_output(out, SEARCH)
    done = _read_record(record, sweep, seed)
    with locked(claim(out, SEARCH)):
        remove_leftovers(out)
        study = optuna.create_study(direction=sweep["metric"]["goal"])
        for number in range(max(trials, len(done))):
            # The draws of a trial depend on its number and on the trials before it, not on where a search was stopped.
            study.sampler = optuna.samplers.TPESampler(seed=random.Random(f"{seed} {number}").getrandbits(32))
            if number < len(done):
                study.enqueue_trial(done[number]["values"])
            trial = study.ask()
            values = draw(trial, sweep)
            if number == len(done):
                logger.info("Trial %d of %d", number + 1, trials)
                value = _try(sweep, values, make_folder(out / f"trial-{number}"), f"{path.stem}-{seed}-{number}")
                done.append({"values": trial.params, "value": value})
                write_json(record, {"sweep": sweep, "seed": seed, "trials": done})
            study.tell(trial, done[number]["value"])
    return study


def _read_record(record: Path, sweep: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Return values and result of the trials that are done, as they were noted in the folder of a search.

    Raises:
        WrpError: If they are those of another sweep or seed, or cannot be read.
    """
    if not record.is_file():
        if (trials := sorted(record.parent.glob("trial-*"))) and (record.parent / "search.journal").exists():
            raise WrpError(f"{trials[0]} is of a search by an earlier version of wrp: choose another --out")
        return []
    found = read_json(record, "restore it, or choose another --out")
    if json.dumps(found.get("sweep")) != json.dumps(sweep) or found.get("seed") != seed:
        raise WrpError(f"{record.parent} holds a search by another sweep or --seed: choose another --out")
    done = found.get("trials")
    if not isinstance(done, list) or not all(_is_trial(trial) for trial in done):
        raise WrpError(f"{record} is damaged (its trials are none); restore it, or choose another --out")
    return done


def _is_trial(trial: Any) -> bool:
    value = trial.get("value") if isinstance(trial, dict) and isinstance(trial.get("values"), dict) else None
    return isinstance(value, float) and math.isfinite(value)


def _try(sweep: dict[str, Any], values: dict[str, Any], folder: Path, name: str) -> float:
    """Run a trial in an empty folder, and return its result; ``name`` is what the agent of W&B would call it."""
    for left in folder.iterdir():  # of this trial, when it was interrupted
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    arguments = [a for a in command_line(sweep, values) if not a.startswith(LOGGER_FLAG)]
    logged = [f"{LOGGER_FLAG}CSVLogger", f"--trainer.logger.save_dir={folder}"]
    command = [sys.executable, "-m", "wrp", *arguments, *logged]
    done = subprocess.run(command, check=False, stdout=sys.stderr, env={**os.environ, "WANDB_RUN_ID": name})
    if done.returncode:
        trial = folder.name.replace("-", " ")
        raise WrpError(f"{trial} failed with exit code {done.returncode}: wrp {' '.join(arguments)}")
    return last_value(folder, sweep["metric"]["name"])


def last_value(folder: Path, metric: str) -> float:
    """Return the last value of a metric in the ``metrics.csv`` files below a folder.

    Raises:
        WrpError: If there is none, or it is not finite.
    """
    values = []
    for path in sorted(folder.rglob("metrics.csv"), key=lambda found: found.stat().st_mtime):
        with path.open(encoding="utf-8") as file:
            values += [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    if not values:
        raise WrpError(f"{folder} contains no value of {metric}: does the command run a validation before it ends?")
    if not math.isfinite(values[-1]):
        raise WrpError(f"{folder} has {metric} {values[-1]}, expected a finite number: narrow the parameters")
    return values[-1]


def search_table(study: Any) -> str:
    """Return the finished trials of an optuna study as a Markdown table, the best first."""
    done = [trial for trial in study.trials if trial.value is not None]
    done.sort(key=lambda trial: trial.value, reverse=study.direction.name == "MAXIMIZE")
    names = sorted({name for trial in done for name in trial.params})
    rows = [
        [str(trial.number), f"{trial.value:.4f}", *(f"{trial.params.get(name, '')}" for name in names)]
        for trial in done
    ]
    return markdown_table(["trial", "value", *(name.rsplit(".", 1)[-1] for name in names)], rows)
