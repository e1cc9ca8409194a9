"""Runs of the semi-supervised systems on images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.runs.selftrain.config import Lists, SelfTraining

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Lists": "config",
        "SelfTraining": "config",
    },
)

__all__ = [
    "Lists",
    "SelfTraining",
]
