"""Calibrate the confidence of a run label by label, so that a run that was stopped can resume."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wrp.data.items import HeldOutItems
from wrp.errors import DataError, WrpError
from wrp.io.opening import read_json
from wrp.io.outputs import TEMPORARY
from wrp.io.progress import progress
from wrp.io.writing import write_json
from wrp.propagation.confidence import ConfidenceCounts, fit_confidence, is_counted, read_calibration
from wrp.propagation.module import PropagationModule
from wrp.runs.job import Job

logger = logging.getLogger("wrp")

CALIBRATION = "calibration.json"


def calibrate(module: PropagationModule, job: Job, path: Path) -> None:
    """Calibrate the confidence if a clip has three labels or more; read an existing calibration where there is one.

    The processes share the labels. The counts of each label are kept in a file until all labels are done, so that a run
    that was stopped can resume with any number of processes.

    Args:
        module: The module whose ``calibration`` is set.
        job: The run.
        path: The file of the calibration.
    """
    processes = job.processes
    if not processes.first(lambda: _is_there(path)):
        held_out = HeldOutItems(job.index.clips, job.index.label_map)
        if not len(held_out):
            logger.info("The confidence is not calibrated: no clip has three labelled frames")
        folder = job.out / TEMPORARY / "calibration"
        # By clip and frame: numbers would shift if a clip were left out.
        files = [folder / f"{quote(clip.name, safe='')}-{clip.keyframes[at]}.json" for clip, at in held_out.held_out]
        done = processes.first(lambda: {file for file in files if _counts(file, module) is not None})
        mine = processes.part([number for number, file in enumerate(files) if file not in done])
        for number in progress(mine, desc="Calibrating", unit="label", disable=not mine):
            batch = held_out[number]
            try:
                counts = module.count_confidence(batch)
            except DataError as error:
                job.skip(batch.clip, error)
                continue
            write_json(files[number], {"checkpoint_hashes": module.checkpoint_hashes, "counts": counts})
        processes.barrier()
        processes.first(lambda: _fit(module, files, path))
    module.calibration = read_calibration(str(path))


def _is_there(path: Path) -> bool:
    """Tell whether a calibration can be read."""
    if not path.is_file():
        return False
    try:
        read_calibration(str(path))
    except WrpError as error:
        logger.warning("%s; the confidence is calibrated again", error)
        return False
    return True


def _fit(module: PropagationModule, files: Sequence[Path], path: Path) -> None:
    """Write the calibration that the counts in these files yield, in their order."""
    counted = [counts for file in files if (counts := _counts(file, module)) is not None]
    lines = fit_confidence(counted, module.methods)
    write_json(path, {method: asdict(line) for method, line in lines.items()})


def _counts(file: Path, module: PropagationModule) -> ConfidenceCounts | None:
    """Return the counts of a label if it is done, by the same networks and methods."""
    if not file.is_file():
        return None
    try:
        content = read_json(file, "the label is counted again")
    except DataError as error:
        logger.warning("%s", error)
        return None
    counts: Any = content.get("counts")
    same = content.get("checkpoint_hashes") == module.checkpoint_hashes
    return counts if same and is_counted(counts, module.methods) else None
