"""Public names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package (PEP 562) that import its public names late.

    Args:
        package: Name of the package, its ``__name__``.
        homes: The module of each public name, below ``package``.

    Example:
        >>> get, names = lazy("wrp", {"DIS": "flow.dis"})
        >>> get("DIS").__name__
        'DIS'
        >>> "DIS" in names()
        True
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
