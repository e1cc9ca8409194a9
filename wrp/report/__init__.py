"""The report of a run: scores, tables, pictures, the page, the overlay video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.report.markdown import write_report
    from wrp.report.overlay import write_video
    from wrp.report.page import write_page
    from wrp.report.scoring import score

__getattr__, __dir__ = lazy(
    __name__,
    {
        "score": "scoring",
        "write_page": "page",
        "write_report": "markdown",
        "write_video": "overlay",
    },
)

__all__ = [
    "score",
    "write_page",
    "write_report",
    "write_video",
]
