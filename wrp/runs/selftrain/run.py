"""`wrp selftrain`: run one of the semi-supervised systems on images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wrp.io.locking import locked
from wrp.io.outputs import SELFTRAIN, claim
from wrp.io.writing import write_json
from wrp.runs.selftrain.stages import Run, SelfTraining
from wrp.runs.selftrain.systems import SYSTEMS
from wrp.runs.stage import Runner


def selftrain(settings: SelfTraining) -> dict[str, Any]:
    """Run a system and score its last network.

    Args:
        settings: The settings of the run.

    Returns:
        The content of ``metrics.json``: settings and scores.

    Raises:
        WrpError: If data or settings cannot be used.
    """
    run = Run(settings)
    with locked(claim(run.out, SELFTRAIN)):
        run.claim()
        stages = SYSTEMS[settings.system](run)
        Runner(run.out).run(stages)
        network = stages[-1].outputs[0] if stages else run.first
        metrics = {"schema": 1, "settings": asdict(settings), "network": network.name, "scores": run.test(network)}
        write_json(run.out / "metrics.json", metrics)
    return metrics
