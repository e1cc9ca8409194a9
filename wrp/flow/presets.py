"""Flow estimators by name, for configurations and the command line; loads no torch until one is made."""

from __future__ import annotations

import contextlib
import inspect
import os
from importlib import import_module
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from wrp.errors import WrpError, check_choice, in_short
from wrp.io.plugins import plugin_names, plugins

if TYPE_CHECKING:
    from wrp.flow.estimator import FlowEstimator

PRESETS = {
    "dis-fast": "OpenCV's DIS at half of the frames' resolution, on the CPU: the fastest",
    "dis": "DIS at the frames' resolution",
    "dis-best": "DIS at the frames' resolution, small frames magnified at most twice: the default",
    "raft-small": "RAFT with a million weights, for a GPU: weights are downloaded, or read from weights=FILE",
    "raft-large": "RAFT with five million weights, for a GPU: weights as for raft-small",
    "stored": "flow of another program, read from the files in root=FOLDER",
}
"""The package's own estimators: a line about each, by name."""

_MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "dis-fast": ("DIS", {"preset": "medium", "scale": 1.0}),
    "dis": ("DIS", {"preset": "fine", "scale": 1.0}),
    "dis-best": ("DIS", {}),
    # Several pairs in one call keep a GPU busy.
    "raft-small": ("RAFT", {"variant": "small", "pairs_per_call": 4}),
    "raft-large": ("RAFT", {"variant": "large", "pairs_per_call": 4}),
    "stored": ("Stored", {}),
}


def make_flow(name: str, args: dict[str, Any] | None = None) -> FlowEstimator:
    """Make a flow estimator by name.

    Args:
        name: One of :data:`PRESETS`, the name of an entry point in ``wrp.flow``, or the path of a class such as
            ``my_package.flow.MyFlow``. With the environment variable ``WRP_SAFE``, only classes of the packages that it
            allows are imported.
        args: Arguments of the class, in addition to those of the preset, which they replace.

    Raises:
        WrpError: If the name is unknown, the class cannot be imported or is no FlowEstimator, or an argument is
            unknown, missing or out of its range.

    Example:
        >>> make_flow("dis", {"threads": 1}).signature.split(" opencv")[0]
        'DIS preset=fine scale=1.0'
    """
    made_by, given = _class_of(name)
    given = {**given, **(args or {})}
    _check_arguments(name, made_by, given)
    try:
        return made_by(**given)
    except (TypeError, ValueError) as error:
        raise WrpError(f"flow {name}: {in_short(error)}") from error


def check_flow(name: str) -> None:
    """Raise WrpError if a name is none of an estimator, nor the path of a class; nothing is imported.

    Example:
        >>> check_flow("dis-fast")
    """
    if "." not in name:
        check_choice("flow", name, [*PRESETS, *plugin_names("wrp.flow")], ", or the path of a class")


def as_flow(flow: FlowEstimator | str | None) -> FlowEstimator:
    """Return a flow estimator as it is, that of a name, see :func:`make_flow`, or the default, DIS.

    Example:
        >>> as_flow("dis-fast").signature.split(" opencv")[0], type(as_flow(None)).__name__
        ('DIS preset=medium scale=1.0', 'DIS')
    """
    if flow is None:
        return make_flow("dis-best")
    return make_flow(flow) if isinstance(flow, str) else flow


def _class_of(name: str) -> tuple[type[FlowEstimator], dict[str, Any]]:
    """Return the class of an estimator, and the arguments that its name stands for."""
    check_flow(name)
    if name in PRESETS:
        class_name, given = _MADE[name]
        return getattr(import_module("wrp.flow"), class_name), given
    if "." in name:
        return _estimator(_imported(name), f"flow {name}"), {}
    return _estimator(plugins("wrp.flow", PRESETS)[name], f"the entry point {name!r} in wrp.flow"), {}


def _imported(path: str) -> Any:
    from wrp.io.checkpoints import SAFE, trusted_packages

    if os.environ.get("WRP_SAFE"):
        allowed = [*SAFE, *trusted_packages()]
        if not any(path.startswith(f"{package}.") for package in allowed):
            raise WrpError(
                f"flow {path} is not imported under WRP_SAFE, which allows {', '.join(allowed)}: name its package in "
                "WRP_SAFE if you trust it"
            )
    home, _, class_name = path.rpartition(".")
    try:
        return getattr(import_module(home), class_name)
    except Exception as error:  # whatever the module raises
        raise WrpError(f"flow {path} cannot be imported: {in_short(error)}") from error


def _estimator(found: Any, named: str) -> type[FlowEstimator]:
    from wrp.flow.estimator import FlowEstimator

    if not (isinstance(found, type) and issubclass(found, FlowEstimator)):
        raise WrpError(f"{named} is {found!r}, expected a subclass of wrp.flow.FlowEstimator")
    return found


def _check_arguments(name: str, made_by: type[FlowEstimator], given: dict[str, Any]) -> None:
    """Raise WrpError, which names the argument, if one is unknown, missing or of a wrong type."""
    signature, hints = inspect.signature(made_by), {}
    with contextlib.suppress(NameError):  # types that are imported for a type checker alone
        hints = get_type_hints(made_by.__init__)
    try:
        signature.bind(**given)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise WrpError(f"flow {name}: {error}; it takes {takes}") from error
    for key, value in given.items():
        if not _fits(value, hints.get(key, Any)):
            expected = signature.parameters[key].annotation
            raise WrpError(f"flow {name}: the argument {key!r} must be of the type {expected}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type, or of one of several; types that are not simple take any value."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not {bool, int, float, str, type(None)}.issuperset(kinds):
        return True
    return type(value) in kinds or (type(value) is int and float in kinds)
