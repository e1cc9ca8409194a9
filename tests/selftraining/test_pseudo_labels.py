"""How the systems predict their pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wrp.options import InferenceArgs
from wrp.runs.selftrain.systems import SYSTEMS

FIVE_SCALES = InferenceArgs(scales=[0.5, 0.75, 1.0, 1.5, 2.0], flip=True)


def inference_of(system: str) -> list[InferenceArgs | None]:
    """Return with which inference a system labels images, stage by stage, without running it."""
    asked: list[InferenceArgs | None] = []

    def labelling(stage: str, network: Path, frames: Any, inference: InferenceArgs | None = None) -> str:
        asked.append(inference)
        return stage

    nothing = dict.fromkeys(("scoring", "training", "data"), lambda *_, **__: "stage")
    run: Any = SimpleNamespace(
        first=Path("supervised.ckpt"),
        first_stage=lambda *_: [],
        unlabelled=[],
        labelling=labelling,
        folder=Path,
        path=Path,
        **nothing,
    )
    SYSTEMS[system](run)
    return asked


def test_st_and_its_successor_use_the_same_augmentation() -> None:
    assert inference_of("st") == [FIVE_SCALES]
    assert inference_of("st++") == [FIVE_SCALES] * 3
