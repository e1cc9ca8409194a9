"""The refiner: its network, its training, and the cycles and keyframe pairs that it learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.refinement.module import RefinementModule
    from wrp.refinement.network import Refiner, refined, refiner_input
    from wrp.refinement.sampler import CycleExamples

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CycleExamples": "sampler",
        "RefinementModule": "module",
        "Refiner": "network",
        "refined": "network",
        "refiner_input": "network",
    },
)

__all__ = [
    "CycleExamples",
    "RefinementModule",
    "Refiner",
    "refined",
    "refiner_input",
]
