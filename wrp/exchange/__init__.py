"""Labels of a run in other programs' formats, and back: one module per format, with ``write`` and ``read``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.exchange.export import FORMATS, export_labels
    from wrp.exchange.importing import import_labels

__getattr__, __dir__ = lazy(
    __name__,
    {
        "FORMATS": "export",
        "export_labels": "export",
        "import_labels": "importing",
    },
)

__all__ = [
    "FORMATS",
    "export_labels",
    "import_labels",
]
