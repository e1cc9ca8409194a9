"""Calibrate the confidence of a run label by label, so that a run that was stopped can resume."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wrp.data.index import ClipIndex
from wrp.data.items import HeldOutItems
from wrp.errors import DataError, WrpError
from wrp.io.manifest import label_hash
from wrp.io.opening import read_json
from wrp.io.outputs import TEMPORARY
from wrp.io.progress import progress
from wrp.io.writing import write_json, write_text
from wrp.propagation.audit import auditor, from_numbers, surest
from wrp.propagation.confidence import (
    ConfidenceCounts,
    fit_confidence,
    fit_without,
    is_counted,
    levels_as_written,
    read_calibration,
)
from wrp.propagation.estimate import estimate, unlabelled_distances
from wrp.propagation.methods.base import PropagationMethod
from wrp.propagation.module import PropagationModule
from wrp.runs.job import Job
from wrp.suggest.accepting import HELD_OUT

logger = logging.getLogger("wrp")

CALIBRATION = "calibration.json"
ESTIMATE = "estimate.json"
"""The scores that each method is estimated to have, see :class:`~wrp.propagation.estimate.Estimate`."""

AUDIT = "audit.json"
"""Where the label of a keyframe contradicts those of its neighbours, see :mod:`wrp.propagation.audit`."""

COUNTS = "calibration-counts.json"
"""What was counted at each held-out keyframe, for a run that continues this one."""


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
    is_fitted, is_told = processes.first(lambda: (_is_readable(path), has_told(path.parent)))
    if not (is_fitted and is_told):
        held_out = HeldOutItems(job.index.clips, job.index.label_map)
        if not len(held_out):
            logger.info("The confidence is not calibrated: no clip has three labelled frames")
        names = [(clip.name, clip.keyframes[at]) for clip, at in held_out.held_out]
        files = [count_file(job.out, *name) for name in names]
        done = processes.first(lambda: {file for file in files if _counts(file, module) is not None})
        mine = processes.part([number for number, file in enumerate(files) if file not in done])
        for number in progress(mine, desc="Calibrating", unit="label", disable=not mine):
            batch = held_out[number]
            try:
                counts = module.count_confidence(batch)
            except DataError as error:
                job.skip(batch.clip, error)
                continue
            job.check_labels(batch)
            write_json(files[number], {"checkpoint_hashes": module.checkpoint_hashes, "counts": counts})
        processes.barrier()
        by_name = dict(zip(names, files, strict=True))
        # A calibration that is there is that of a run which is continued.
        processes.first(lambda: _tell(module, job.index, by_name, path, fits=not is_fitted))
    module.calibration = read_calibration(str(path))


def has_told(run: Path) -> bool:
    """Tell whether a run has written what its held-out labels say of it.

    Example:
        >>> has_told(Path("no-such-run"))
        False
    """
    return all((run / name).is_file() for name in (ESTIMATE, AUDIT, HELD_OUT))


def _is_readable(path: Path) -> bool:
    """Tell whether a calibration can be read."""
    if not path.is_file():
        return False
    try:
        read_calibration(str(path))
    except WrpError as error:
        logger.warning("%s; the confidence is calibrated again", error)
        return False
    return True


def count_file(out: Path, clip: str, keyframe: int) -> Path:
    """Return the file of what is counted at a held-out keyframe while a run is at work.

    By clip and frame: numbers would shift if a clip were left out.

    Example:
        >>> count_file(Path("out"), "street", 12).name
        'street-12.json'
    """
    return out / TEMPORARY / "calibration" / f"{quote(clip, safe='')}-{keyframe}.json"


def read_counts(run: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Read what was counted at the held-out keyframes of a run.

    Args:
        run: Its folder.

    Returns:
        The content of :func:`count_file` by clip name and index of the keyframe; empty if the run does not tell.

    Example:
        >>> read_counts(Path("no-such-run"))
        {}
    """
    if not (run / COUNTS).is_file():
        return {}
    try:
        content = read_json(run / COUNTS, "all keyframes are counted again")
        hashes = content.get("checkpoint_hashes")
        return {
            (clip, int(keyframe)): {"checkpoint_hashes": hashes, "counts": counts}
            for clip, of_clip in content["labels"].items()
            for keyframe, counts in of_clip.items()
        }
    except (DataError, AttributeError, LookupError, ValueError) as error:
        logger.warning("%s cannot be used (%s): all keyframes are counted again", run / COUNTS, error)
        return {}


def _tell(
    module: PropagationModule, index: ClipIndex, files: Mapping[tuple[str, int], Path], path: Path, fits: bool
) -> None:
    """Write what the counts in these files yield, in their order: counts, calibration, estimates, held-out labels.

    Args:
        module: The module.
        index: The clips.
        files: The file of counts of each keyframe that was held out, by clip and index.
        path: The file of the calibration.
        fits: Whether a calibration is fitted; otherwise that in the file stays.
    """
    found = {name: counts for name, file in files.items() if (counts := _counts(file, module)) is not None}
    counted = list(found.values())
    kept: dict[str, dict[int, ConfidenceCounts]] = {}
    for (clip, keyframe), counts in found.items():
        kept.setdefault(clip, {})[keyframe] = counts
    content = {"checkpoint_hashes": module.checkpoint_hashes, "labels": kept}
    write_text(path.with_name(COUNTS), json.dumps(content, separators=(",", ":")) + "\n")
    distances = [distance for clip in index.clips for distance in unlabelled_distances(clip)]
    frames = {clip.name: clip.frames for clip in index.clips}
    # Of what a network has learned from, it knows more than of any other frame.
    seen = {(clip, at) for clip, at in found if label_hash(frames[clip][at]) in module.labels_seen}
    foretold = {}
    for name, method in module.chosen.items():
        fair = [counts for place, counts in found.items() if not (_has_network(method) and place in seen)]
        grows = bool(method.works_from)
        if (of_method := estimate(fair or counted, name, distances, module.num_classes, grows)) is not None:
            foretold[name] = asdict(replace(of_method, seen=not fair))
    write_json(path.with_name(ESTIMATE), foretold)
    lines = fit_confidence(counted, module.methods) if fits else read_calibration(str(path))
    result = module.methods[-1]
    last, held_out = module.chosen[result], []
    for (name, keyframe), counts in found.items():
        pixels, right = levels_as_written(counts[result], lines.get(result), bool(last.works_from))
        label = {"clip": name, "frame": frames[name][keyframe].stem, "pixels": pixels, "right": right}
        held_out.append({**label, "seen": _has_network(last) and (name, keyframe) in seen})
    write_json(path.with_name(HELD_OUT), {"method": result, "labels": held_out})
    write_json(path.with_name(AUDIT), _contradictions(module, index, found))
    if fits:
        write_json(path, {method: asdict(line) for method, line in lines.items()})


def _has_network(method: PropagationMethod) -> bool:
    return method.needs.teacher or method.needs.refiner


def _contradictions(
    module: PropagationModule, index: ClipIndex, found: Mapping[tuple[str, int], ConfidenceCounts]
) -> dict[str, Any]:
    """Return where labels of keyframes contradict those of their neighbours, the largest regions first."""
    audits, names, clips = auditor(module.chosen), index.label_map.names, {clip.name: clip for clip in index.clips}
    places, counted = list(found), [counts[audits] for counts in found.values()]
    doubtful = [number for number, counts in enumerate(counted) if counts["contradictions"]]
    # By the other keyframes: a mistake that is counted as an error of motion would hide itself.
    lines = fit_without(list(found.values()), audits, doubtful)
    listed: list[dict[str, Any]] = []
    for number, line in zip(doubtful, lines, strict=True):
        (clip, keyframe), [distance] = places[number], counted[number]["distances"]
        name = {"clip": clip, "frame": clips[clip].frames[keyframe].stem}
        away = distance if line is None or module.chosen[audits].works_from else line.distance
        for one in surest(from_numbers(counted[number]["contradictions"]), line, away):
            listed.append(name | asdict(one) | {"own": names[one.own], "other": names[one.other]})
    return {"method": audits, "contradictions": sorted(listed, key=lambda one: -one["pixels"])}


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
    return counts if same and is_counted(counts, module.methods, module.num_classes) else None
