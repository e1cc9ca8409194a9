"""Calibrate the confidence of a run label by label, so that a run that was stopped can resume."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from wrp.data.index import ClipIndex
from wrp.data.items import HeldOutItems
from wrp.errors import DataError, WrpError
from wrp.io.opening import read_json
from wrp.io.progress import progress
from wrp.io.writing import write_json
from wrp.propagation.confidence import ConfidenceCounts, fit_confidence, is_counted, read_calibration
from wrp.propagation.module import PropagationModule

logger = logging.getLogger("wrp")

CALIBRATION = "calibration.json"


def calibrate(module: PropagationModule, index: ClipIndex, path: Path) -> None:
    """Calibrate the confidence if a clip has three labels or more; read an existing calibration where there is one.

    The counts of each label are saved until all labels are done, so that a run that was stopped can resume.

    Args:
        module: The module whose ``calibration`` is set.
        index: The clips; each keyframe between two others is left out in turn and predicted.
        path: The file of the calibration.
    """
    held_out = HeldOutItems(index.clips, index.label_map)
    if path.is_file():
        try:
            module.calibration = read_calibration(str(path))
            return
        except WrpError as error:
            logger.warning("%s; the confidence is calibrated again", error)
    if not len(held_out):
        logger.info("The confidence is not calibrated: no clip has three labelled frames")
    unfinished = path.with_name(f"{path.stem}-unfinished{path.suffix}")
    counted = _counted(unfinished, module)
    labels = progress(
        range(len(counted), len(held_out)),
        desc="Calibrating",
        unit="label",
        initial=len(counted),
        total=len(held_out),
        disable=not len(held_out),
    )
    for number in labels:
        counted.append(module.count_confidence(held_out[number]))
        write_json(unfinished, {"checkpoint_hashes": module.checkpoint_hashes, "counted": counted})
    lines = fit_confidence(counted, module.methods)
    write_json(path, {method: asdict(line) for method, line in lines.items()})
    unfinished.unlink(missing_ok=True)
    module.calibration = read_calibration(str(path))


def _counted(unfinished: Path, module: PropagationModule) -> list[ConfidenceCounts]:
    """Return the counts of a calibration that was stopped, if it used the same networks and methods."""
    if not unfinished.is_file():
        return []
    try:
        content = read_json(unfinished, "the calibration starts again")
    except DataError as error:
        logger.warning("%s", error)
        return []
    counted = content.get("counted")
    if content.get("checkpoint_hashes") != module.checkpoint_hashes or not isinstance(counted, list):
        return []
    return counted if all(is_counted(counts, module.methods) for counts in counted) else []
