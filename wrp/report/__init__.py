"""The report of a run: scores, tables, pictures, the page, the overlay video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.report.markdown import write_report
    from wrp.report.overlay import write_video
    from wrp.report.page import write_page
    from wrp.report.scoring import join_scores, score_clips

__getattr__, __dir__ = lazy(
    __name__,
    {
        "join_scores": "scoring",
        "score_clips": "scoring",
        "write_page": "page",
        "write_report": "markdown",
        "write_video": "overlay",
    },
)

__all__ = [
    "join_scores",
    "score_clips",
    "write_page",
    "write_report",
    "write_video",
]
