"""Which frames to label next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.suggest.suggestions import suggest

__getattr__, __dir__ = lazy(
    __name__,
    {
        "suggest": "suggestions",
    },
)

__all__ = [
    "suggest",
]
