"""Label clips densely from sparse labels: teacher → refiner → propagation → score → report, each step done once."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.callbacks.writer import LabelWriter
from wrp.data.checking import Checked, check_files, note_on_masks
from wrp.data.classes import nothing_to_learn
from wrp.data.index import ClipIndex, select_clips
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.data.propagation import PropagationData
from wrp.data.run import read_run_file
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import DataError, WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.io.locking import locked
from wrp.io.manifest import check_networks, join_manifest, remove_temporaries, written_parts
from wrp.io.outputs import FLOW, RUN, TEMPORARY, WRITTEN, check_output, claim, remove_temporary
from wrp.io.versions import versions
from wrp.io.writing import write_json
from wrp.module import file_hash
from wrp.options import SelectArgs
from wrp.propagation.methods import make_methods
from wrp.propagation.module import PropagationModule
from wrp.report.markdown import write_report
from wrp.report.metrics import METRICS_SCHEMA
from wrp.report.page import write_page
from wrp.report.scoring import score
from wrp.runs.calibrating import CALIBRATION, calibrate
from wrp.runs.config import RefinerTrainingArgs, RunArgs, Settings, TeacherArgs
from wrp.runs.networks import needs, network_paths, network_stages, score_student, student_stages
from wrp.runs.plan import Costs, describe, plan
from wrp.runs.record import claim_folder
from wrp.runs.stage import Runner, Stage
from wrp.runs.training import plain_trainer, quiet_lightning

logger = logging.getLogger("wrp")


class RunWriter(LabelWriter):
    """Write the labels of a run into its folder.

    Example:
        >>> RunWriter("runs/street").kind
        'run'
    """

    kind = RUN


def autolabel(settings: Settings) -> dict[str, Any] | None:
    """Label every frame of every clip, as `wrp autolabel` does.

    Args:
        settings: The settings of the run.

    Returns:
        The content of ``metrics.json``; None if intervals are left because of a shard or a limit.

    Raises:
        WrpError: If data, checkpoints or settings cannot be used; nothing is written then.
    """
    started = time.perf_counter()
    index = index_of(settings)
    settings = check_folders(settings, index)
    out = Path(settings.out)
    labels = _labels_hash(index)
    checked = check_files(index, needs(settings).teacher, settings.run.on_error == "skip")
    broken = checked.broken
    index = index.without(broken)
    _check_labels(settings, index, checked)
    check_shard(settings, index, out)
    with locked(claim(out, RUN), shared=settings.run.shard is not None):
        claim_folder(settings, index.root, labels, checked.frames)
        logger.info("%s", describe(settings, index, plan(settings, index)))
        return _autolabel(settings, index, broken, started)


def _autolabel(settings: Settings, index: ClipIndex, broken: dict[str, str], started: float) -> dict[str, Any] | None:
    """Run the stages of :func:`autolabel` in a folder that belongs to this run."""
    out = Path(settings.out)
    runner = Runner(out)
    temporary = claim(out / TEMPORARY, TEMPORARY)
    flow = FlowCache(DIS(), settings.run.flow_cache or str(temporary / "flow"))

    def finish() -> None:
        remove_temporary(temporary)
        if settings.run.flow_cache is None:
            logger.info("Optical flow was deleted with %s; use --flow-cache DIR to keep it for other runs", temporary)

    finished = runner.run(
        [
            *network_stages(settings, index, flow),
            Stage("propagate", (), (), lambda: _propagate(settings, index, flow)),
            Stage("finish", (), (), finish),
            *student_stages(settings, index),
        ]
    )
    runner.add("flow", flow.seconds)
    runner.add("total", time.perf_counter() - started)
    if not finished:
        return None
    metrics: dict[str, Any] = {"schema": METRICS_SCHEMA, "settings": _record(settings, index, out)}
    if broken:
        metrics["skipped"] = broken
    metrics |= score(index, tuple(settings.methods), out) | score_student(settings, index)
    seconds = {name: took for name, took in runner.seconds.items() if name != "finish"}
    metrics["seconds"] = {key: 0.0 for key in ("flow", "teacher", "refiner", "propagate", "total")} | seconds
    write_json(out / "metrics.json", metrics)
    write_reports(index, metrics, out)
    return metrics


def write_reports(index: ClipIndex, metrics: dict[str, Any], out: Path) -> None:
    """Write report.md and report.html of a finished run.

    Args:
        index: The clips of the run.
        metrics: The content of its ``metrics.json``.
        out: Folder of the run.

    Raises:
        DataError: If a file of the run is missing or damaged.
    """
    *_, result = make_methods(list(metrics["settings"]["methods"])).values()
    write_report(index, metrics, out)
    write_page(index, metrics, out, result.needs.teacher)


def dry_run(settings: Settings) -> str:
    """Describe what :func:`autolabel` would do and estimate how long it would take, without writing anything."""
    index = index_of(settings)
    settings = check_folders(settings, index)
    _check_labels(settings, index, check_files(index, needs(settings).teacher))
    return describe(settings, index, plan(settings, index), Costs(settings, index))


def index_of(settings: Settings) -> ClipIndex:
    """Find the clips of a run, and hold labels out as its settings require."""
    return select_clips(open_index(settings.root, settings.layout, settings.split), settings.select)


def _check_labels(settings: Settings, index: ClipIndex, checked: Checked) -> None:
    """Warn of clips whose labels show no class, and raise DataError if networks would have only such labels."""
    keyframes = [(clip, keyframe) for clip in index.clips for keyframe in clip.keyframes]
    needed = needs(settings)
    trains_refiner = needed.refiner and settings.refiner is None
    trains_network = (needed.teacher and settings.teacher is None) or settings.student is not None
    first = keyframes[0][0].frames[keyframes[0][1]].label
    if not checked.shown and (trains_refiner or (trains_network and not checked.images)):
        raise nothing_to_learn(len(keyframes), first)
    folds = settings.train_teacher.folds if trains_refiner and not checked.images else 0
    for fold in range(folds):
        kept = [keyframe for number, keyframe in enumerate(keyframes) if number % folds != fold]
        if not any((clip.name, keyframe) in checked.shown for clip, keyframe in kept):
            raise nothing_to_learn(len(kept), first, f" of fold {fold + 1} of --teacher-folds {folds}")
    for note in [*index.notes, note_on_masks(index.label_map, checked.pixels)]:
        if note is not None:
            logger.warning("%s", note)
    for name in checked.unlabelled:
        logger.warning("No label of clip %s has a pixel with a class: only semantic can label its frames", name)


def check_folders(settings: Settings, index: ClipIndex) -> Settings:
    """Check the folders to write to, and return the settings with these folders resolved.

    Raises:
        WrpError: If a folder holds files of another program, is read from, or cannot be written to.
    """
    reads = index.reads
    out = check_output(Path(settings.out), RUN, reads)
    if settings.run.flow_cache is None:
        return replace(settings, out=str(out))
    taken = {*reads, *((out / name).resolve() for name in (TEMPORARY, *WRITTEN))}
    flow = check_output(Path(settings.run.flow_cache), FLOW, taken, "--flow-cache")
    return replace(settings, out=str(out), run=replace(settings.run, flow_cache=str(flow)))


def demo(out: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Autolabel a generated street scene whose ground truth is known at every frame, as `wrp demo` does.

    Args:
        out: Folder for ``scene/`` and ``run/``.
        seed: Seed of the scene and of the run.
        changes: Fields of :class:`~wrp.runs.config.Settings` to change.

    Returns:
        The content of ``metrics.json``.
    """
    root, run = generate_folder(out / "scene", seed=seed), out / "run"
    settings = Settings(root=str(root), out=str(run), select=SelectArgs(label_every=12), run=RunArgs(seed=seed))
    metrics = autolabel(replace(settings, **{**DEMO, **changes}))
    assert metrics is not None
    return metrics


# The trainings of the demo are sized for less than four minutes in total on two CPU cores.
DEMO: dict[str, Any] = {
    "train_teacher": TeacherArgs(weights="none", steps=400),
    "train_refiner": RefinerTrainingArgs(steps=250),
}


def check_shard(settings: Settings, index: ClipIndex, out: Path) -> None:
    """Raise WrpError if jobs that share a run would each have to train networks or calibrate."""
    needed = {
        "teacher.ckpt": needs(settings).teacher and settings.teacher is None,
        "refiner.ckpt": needs(settings).refiner and settings.refiner is None,
        CALIBRATION: len(HeldOutItems(index.clips, index.label_map)) > 0,
    }
    missing = [name for name, lacks in needed.items() if lacks and not (out / name).is_file()]
    if settings.run.shard is not None and missing:
        raise WrpError(
            f"--shard {settings.run.shard} needs {' and '.join(missing)} in {out}: first run the same command "
            "once with --limit 0 instead of --shard"
        )


def _labels_hash(index: ClipIndex) -> str:
    """Return the first 16 digits of the SHA-256 of the labels that a run learns from and the names of their frames."""
    digest = hashlib.sha256()
    frames = [*index.images, *(clip.frames[keyframe] for clip in index.clips for keyframe in clip.keyframes)]
    for frame in frames:
        assert frame.label is not None
        digest.update(f"{frame.stem}\n".encode() + hashlib.sha256(frame.label.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _propagate(settings: Settings, index: ClipIndex, flow: FlowCache) -> bool:
    """Label the intervals that are not written yet, and tell whether all are written now."""
    out, run = Path(settings.out), settings.run
    given = {name: str(path) for name, path in network_paths(settings).items()}
    check_networks(out, {name: file_hash(path) for name, path in given.items()})
    data = PropagationData.over(index, shard=run.shard, done=str(out), workers=run.workers)
    units, left = len(IntervalItems(index.clips, index.label_map)), len(data.intervals((0, 1)))
    mine = len(data.intervals()) if run.limit is None else min(len(data.intervals()), run.limit)
    there = f", {units - left} are labelled already" if left < units else ""
    logger.info("Labelling %d of %d intervals%s", mine, units, there)
    if left:
        module = PropagationModule(
            data.num_classes, settings.methods, **given, flow=flow, min_confidence=run.min_confidence
        )
        with quiet_lightning():
            trainer = pl.Trainer(limit_predict_batches=mine, **plain_trainer(RunWriter(str(out))))
            calibrate(module.to(trainer.strategy.root_device), index, out / CALIBRATION)
            if mine:
                trainer.predict(module, data, return_predictions=False)
    join_manifest(out)
    left = len(IntervalItems(index.clips, index.label_map, done=written_parts(out)))
    if left and run.shard is None and run.limit is None:
        raise WrpError(f"{out}: the labels of {left} intervals are missing; run the same command again")
    if left:
        logger.info("%d intervals are left; run the command again without --limit and --shard to finish", left)
        return False
    remove_temporaries(out)
    join_manifest(out)  # once more: another job may have joined the parts before the last one was written
    return True


def _record(settings: Settings, index: ClipIndex, out: Path) -> dict[str, Any]:
    """Return the settings with what was found at run time: clips, layout, encoder weights and versions."""
    record = settings.as_json() | {"root": str(index.root.resolve())}
    record["layout"] = index.layout
    record["clips"] = [clip.name for clip in index.clips]
    used = out / "weights.json"
    try:
        record["encoder_weights"] = read_run_file(used).get("encoder")
    except DataError as error:  # for information only: no decision depends on it
        logger.warning("%s", error)
        record["encoder_weights"] = None
    record["versions"] = versions()
    return record
