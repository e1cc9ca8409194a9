"""The semi-supervised systems that are compared: ST, ST++, CISC-R, Three-Stage, UniMatch and UniMatch V2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.selftraining.cisc_r import CiscModule
    from wrp.selftraining.student import StudentModule
    from wrp.selftraining.three_stage import ThreeStageModule
    from wrp.selftraining.unimatch import UniMatchModule
    from wrp.selftraining.unimatch_v2 import UniMatchV2Module

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CiscModule": "cisc_r",
        "StudentModule": "student",
        "ThreeStageModule": "three_stage",
        "UniMatchModule": "unimatch",
        "UniMatchV2Module": "unimatch_v2",
    },
)

__all__ = [
    "CiscModule",
    "StudentModule",
    "ThreeStageModule",
    "UniMatchModule",
    "UniMatchV2Module",
]
