"""`wrp selftrain`: run one of the semi-supervised systems on images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wrp.io.locking import locked
from wrp.io.outputs import SELFTRAIN, claim
from wrp.io.writing import remove_leftovers, write_json
from wrp.runs.processes import launched
from wrp.runs.selftrain.config import SelfTraining
from wrp.runs.selftrain.stages import Run
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
    with launched(settings.trainer, logs=Path(settings.out, "logs")) as processes, ExitStack() as held:
        run = Run(settings, processes)

        def begin() -> None:
            held.enter_context(locked(claim(run.out, SELFTRAIN)))
            remove_leftovers(run.out)
            run.claim()

        processes.first(begin)
        stages = SYSTEMS[settings.system](run)
        Runner(run.out, processes).run(stages)
        processes.first(run.check_unchanged)
        network = stages[-1].outputs[0] if stages else run.first
        metrics = {"schema": 2, "settings": asdict(settings), "network": network.name, "scores": run.test(network)}
        processes.first(lambda: write_json(run.out / "metrics.json", metrics))
        return metrics
