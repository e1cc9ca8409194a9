"""Read the settings of a run from flags and files, and record them beside its results."""

from __future__ import annotations

import json
import logging
import re
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from wrp.errors import WrpError, did_you_mean, in_short, nearest
from wrp.io.opening import parse_yaml, read_text
from wrp.options import flat
from wrp.runs.config import SHORT, Settings

logger = logging.getLogger("wrp")

RENAMED = {"--anchors": "--keyframes"}
"""Names that flags had in wrp 0.1, and their present names; the old ones are still accepted."""

# What a run adds to its settings in settings.json.
ADDED = ("labels", "networks", "frames", "computed_by", "threads")


@cache
def make_parser() -> ArgumentParser:
    """Make the parser of `wrp autolabel`, once: all settings, and short flags for some of them."""
    parser = ArgumentParser(
        prog="wrp autolabel",
        usage="wrp autolabel ROOT --out DIR [options]",
        description="Label every frame: train a teacher and a refiner on the labelled frames, propagate their labels, "
        "write labels, confidence, a manifest and a report. Run it again to resume; steps that are done are skipped.",
        exit_on_error=False,
        print_config=None,
    )
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE",
        help="YAML or JSON file of settings, such as settings.json of another run; flags override it. "
        "--recipe NAME takes one that comes with the package, see `wrp recipes`",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done and how long it would take, and stop"
    )
    parser.add_class_arguments(Settings)
    known = _known(parser)
    for action in parser._actions:  # argparse has no public way to show both names
        if action.dest in known:
            short = [f"--{flag}" for flag, setting in SHORT.items() if setting == action.dest]
            action.option_strings = [*short, f"--{action.dest}"]
            action.help = _ROLE.sub(r"\1", str(action.help)).replace("``", "")
        elif any(name.startswith(f"{action.dest}.") for name in known):
            action.help = SUPPRESS  # a group, whose settings have flags of their own
    return parser


# A cross-reference in a docstring, which --help shows as the bare name.
_ROLE = re.compile(r":\w+:`~?(?:\w+\.)*(\w+)`")


def _known(parser: ArgumentParser) -> dict[str, Any]:
    """Return the type of each setting by its name; settings of groups have dotted names."""
    types = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    return {name: kind for name, kind in types.items() if kind is not None}


def parse_arguments(args: Sequence[str]) -> tuple[Settings, bool]:
    """Parse the arguments of `wrp autolabel` into settings, and tell whether it is a dry run.

    Raises:
        WrpError: If a file cannot be read, or a setting is missing, unknown or of a wrong type.

    Example:
        >>> settings, dry_run = parse_arguments(["clips", "--out", "out", "--methods=motion", "--dry-run"])
        >>> settings.root, settings.methods, dry_run
        ('clips', ('motion',), True)
    """
    parser = make_parser()
    if {"-h", "--help"} & set(args):
        parser.parse_args(["--help"])
    flags, config, dry = _take_apart(args, _known(parser))
    content = _read_config(config) if config is not None else {}
    return _parse(parser, content, flags, f"--config {config}: " if config is not None else ""), dry


def _parse(parser: ArgumentParser, content: dict[str, Any], flags: list[_Flag], where: str) -> Settings:
    """Merge a file's content and flags, which override it; ``where`` begins the messages about the file."""
    known, settings = _known(parser), dict(flat(content))
    _check_names(settings, known, where)
    given = {flag.setting: flag.value for flag in flags}
    if missing := [name for name in ("root", "out") if not (settings | given).get(name)]:
        raise WrpError(f"{' and '.join(missing)} must be given, on the command line or in --config FILE")
    settings = {name: value for name, value in settings.items() if name not in given}
    for group in _GROUPS:
        of_group = [flag for flag in flags if flag.setting.startswith(f"{group}.")]
        if of_group:  # not by jsonargparse, for which the arguments of a class replace its name
            flags = [flag for flag in flags if flag not in of_group]
            found = {flag.setting.removeprefix(f"{group}."): parse_yaml(flag.value) for flag in of_group}
            settings[group] = settings.get(group, {}) | found
    for name, value in settings.items():
        if value is None and NoneType not in get_args(known[name]):
            raise _wrong(f"{where}{name}", known[name], None)
    file = [f"--config={json.dumps(settings, default=str)}"] if settings else []
    try:
        read = parser.parse_args([*file, *(f"--{flag.setting}={flag.value}" for flag in flags)])
        made = parser.instantiate(read)
        return Settings(**{one.name: made[one.name] for one in fields(Settings)})
    except WrpError:
        raise
    except Exception as error:  # jsonargparse's own errors, and those of types and paths
        named = _KEY.match(str(error))
        if named is None or named[1] not in known:
            raise WrpError(f"{where or 'settings: '}{in_short(error)}") from error
        for flag in flags:
            if f"{flag.setting}.".startswith(f"{named[1]}."):
                raise _wrong(flag.name, known[named[1]], flag.value) from error
        raise _wrong(where + named[1], known[named[1]], settings.get(named[1])) from error


# How jsonargparse's messages name the setting whose value is wrong.
_KEY = re.compile(r'Parser key "([^"]+)"')


def _check_names(settings: dict[str, Any], known: dict[str, Any], where: str) -> None:
    """Refuse names that are not settings."""
    for name, value in settings.items():
        if name in known:
            continue
        if any(other.startswith(f"{name}.") for other in known):
            raise WrpError(f"{where}{name} must be a group of settings, lines `name: value`, got {value!r:.200}")
        # It may be the name of a flag.
        names = {flag.replace("-", "_"): setting for flag, setting in SHORT.items()} | {one: one for one in known}
        near = nearest(name, names)
        meant = "" if near is None else f"; did you mean {names[near]}?"
        raise WrpError(f"{where}there is no setting {name!r}{_or_help(meant)}")


def _or_help(meant: str) -> str:
    return f"{meant or ';'} `wrp autolabel --help` shows all"


def _wrong(name: str, kind: Any, value: Any) -> WrpError:
    return WrpError(f"{name} must be of type {_type_name(kind)}, got {value!r:.200}")


def _type_name(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_type_name, get_args(kind)))
    return "None" if kind is NoneType else kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")


class _Flag(NamedTuple):
    """A flag as it was written, the setting that it sets, and the value."""

    name: str
    setting: str
    value: str


def _take_apart(args: Sequence[str], known: dict[str, Any]) -> tuple[list[_Flag], str | None, bool]:
    """Split arguments into flags, the file of settings and whether it is a dry run; refuse unknown flags."""
    flags: list[_Flag] = []
    config, dry, left = None, False, list(args)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name in RENAMED:
            logger.warning("%s is now called %s; the old name will be removed in a later version", name, RENAMED[name])
            name = RENAMED[name]
        setting = _setting(name[2:]) if name.startswith("--") else ""
        if not _is_flag(word):
            name, setting, value = "ROOT", "root", word
        elif word == "--dry-run":
            dry = True
            continue
        elif name == "--dry-run":
            raise WrpError(f"--dry-run takes no value, got {value!r}")
        elif name != "--config" and setting not in known and not setting.startswith(_VALUES):
            meant = did_you_mean(name, [f"--{flag}" for flag in (*SHORT, *known, "config", "recipe", "dry-run")])
            raise WrpError(f"unrecognized argument {name}{_or_help(meant)}")
        elif not equals:
            if left and not _is_flag(left[0]):
                value = left.pop(0)
            elif name == "--student":
                value = "plain"
            else:
                raise WrpError(f"{name} needs a value")
        if name == "--config":
            config = value
            continue
        if setting == "root" and (roots := [flag.value for flag in flags if flag.setting == "root"]):
            raise WrpError(f"unrecognized argument {value!r}: ROOT is already given as {roots[0]!r}")
        flags.append(_Flag(name, setting, value))
    return flags, config, dry


def _setting(flag: str) -> str:
    """Return the setting of a flag; a dictionary's entry follows the flag of the dictionary behind a dot."""
    group, dot, entry = flag.partition(".")
    return SHORT.get(flag) or SHORT.get(group, group) + dot + entry


# Settings that are dictionaries: single entries may be given, such as `--train_teacher.losses.dice=2`.
_VALUES = ("train_teacher.losses.", "train_teacher.network.options.", "run.flow_args.", "run.trainer.")
# Those of them whose entries may belong to one another, such as a class and its arguments.
_GROUPS = ("run.flow_args", "run.trainer")


def _is_flag(word: str) -> bool:
    """Tell whether a word is a flag; a negative number is a value."""
    return word.startswith("-") and word != "-" and re.match(r"-\.?\d", word) is None


def _read_config(path: str) -> dict[str, Any]:
    try:
        read = parse_yaml(read_text(Path(path))) or {}
    except (WrpError, ValueError) as error:
        raise WrpError(f"--config {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict):
        raise WrpError(f"--config {path} must contain settings, lines `name: value`, got a {type(read).__name__}")
    return {str(name): value for name, value in read.items() if not _is_added(name, value)}


def _is_added(name: Any, value: Any) -> bool:
    """Tell whether a name is one that a run adds to its record: hashes, and not the flag of the same name."""
    if name == "labels":  # a folder, where it is the name of a flag
        return isinstance(value, dict) or re.fullmatch(r"[0-9a-f]{16}", str(value)) is not None
    return name in ADDED
