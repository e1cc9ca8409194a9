"""What the commands do, as named stages with inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.runs.config import RefinerTrainingArgs, RunArgs, Settings, TeacherArgs
    from wrp.runs.stage import Runner, Stage

__getattr__, __dir__ = lazy(
    __name__,
    {
        "RefinerTrainingArgs": "config",
        "RunArgs": "config",
        "Runner": "stage",
        "Settings": "config",
        "Stage": "stage",
        "TeacherArgs": "config",
    },
)

__all__ = [
    "RefinerTrainingArgs",
    "RunArgs",
    "Runner",
    "Settings",
    "Stage",
    "TeacherArgs",
]
