"""Extensions from other installed packages, by the entry points in their metadata."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from wrp.errors import WrpError, in_short


def plugins(group: str, taken: Collection[str] = ()) -> dict[str, Any]:
    """Import the objects that installed packages register in a group.

    A package registers one in its ``pyproject.toml``::

        [project.entry-points."wrp.layouts"]
        dashcam = "my_package.dashcam"

    Args:
        group: ``wrp.layouts``, ``wrp.methods`` or ``wrp.flow``.
        taken: Names that this package uses itself.

    Returns:
        Objects by name, sorted by name.

    Raises:
        WrpError: If a name is taken or registered twice, or an object cannot be imported; the message names the
            package.
    """
    found: dict[str, EntryPoint] = {}
    for point in _registered(group):
        if point.name in taken or point.name in found:
            raise WrpError(f"{_origin(point)} registers {point.name!r} in {group}, which is taken; rename it there")
        found[point.name] = point
    return {name: _load(found[name]) for name in sorted(found)}


def plugin_names(group: str) -> list[str]:
    """List the names that installed packages register in a group, without importing what they stand for."""
    return sorted(point.name for point in _registered(group))


@cache
def _registered(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever the package raises
        raise WrpError(
            f"{_origin(point)} registers {point.value!r} in {point.group}, which cannot be imported: "
            f"{in_short(error)}; "
            "mend or uninstall it"
        ) from error


def _origin(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else "a package"
