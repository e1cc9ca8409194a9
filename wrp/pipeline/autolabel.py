"""From sparse labels to dense ones: teacher → refiner → propagation → score → report, each step done once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.callbacks.parts import join_manifest, remove_temporaries, written_parts
from wrp.callbacks.writer import LabelWriter
from wrp.data.classes import nothing_to_learn
from wrp.data.clips import ClipIndex, select_clips
from wrp.data.datamodule import VideoDataModule
from wrp.data.datasets import open_index
from wrp.data.datasets.generated import generate_folder
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.errors import DataError, WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.locking import locked
from wrp.modules.base import file_hash
from wrp.opening import read_json
from wrp.outputs import FLOW, RUN, TEMPORARY, WRITTEN, check_output, claim, remove_temporary
from wrp.pipeline.calibrating import CALIBRATION, calibrate
from wrp.pipeline.check import Checked, check_files
from wrp.pipeline.html import write_page
from wrp.pipeline.networks import Stopwatch, networks, student
from wrp.pipeline.plan import Costs, describe, plan
from wrp.pipeline.report import write_report
from wrp.pipeline.scoring import score
from wrp.pipeline.settings import Settings, read_settings
from wrp.pipeline.training import plain_trainer, quiet_lightning
from wrp.propagation.module import PropagationModule
from wrp.versions import versions
from wrp.writing import write_json

logger = logging.getLogger("wrp")


class RunWriter(LabelWriter):
    """Writes into the folder of a run."""

    kind = RUN


def autolabel(settings: Settings) -> dict[str, Any] | None:
    """Label every frame of every clip; see the command of this name.

    Args:
        settings: What to do.

    Returns:
        The content of ``metrics.json``; None where a shard or a limit has left intervals to others.

    Raises:
        WrpError: If data, checkpoints or settings are not as they have to be; nothing is written then.
    """
    started = time.perf_counter()
    index = index_of(settings)
    settings = check_folders(settings, index)
    out = Path(settings.out)
    labels = _labels_hash(index)
    checked = check_files(index, settings.needs_teacher, settings.on_error == "skip")
    broken = checked.broken
    index = without(index, broken)
    _check_labels(settings, index, checked)
    data = _data(settings, index)
    check_shard(settings, data, out)
    with locked(claim(out, RUN), shared=settings.shard is not None):
        settings.claim_folder(labels, checked.frames)
        logger.info("%s", describe(settings, data, plan(settings, data)))
        return _autolabel(settings, index, data, broken, started)


def _autolabel(
    settings: Settings, index: ClipIndex, data: VideoDataModule, broken: dict[str, str], started: float
) -> dict[str, Any] | None:
    """The steps of :func:`autolabel`, once the folder is this run's."""
    out = Path(settings.out)
    watch = Stopwatch(out / "seconds.json")
    temporary = claim(out / TEMPORARY, TEMPORARY)
    flow = FlowCache(DIS(), settings.flow_cache or str(temporary / "flow"))
    teacher, refiner = networks(settings, data, flow, watch, out)
    left = _propagate(settings, data, teacher, refiner, flow, watch, out)
    watch.add("flow", flow.seconds)
    if left:
        watch.add("total", time.perf_counter() - started)
        logger.info("%d intervals are left; run the command again without --limit and --shard to finish", left)
        return None
    remove_temporary(temporary)
    if settings.flow_cache is None:
        logger.info("Optical flow is deleted with %s; --flow-cache DIR keeps it for other runs", temporary)
    of_student = student(settings, data, watch, out) if settings.student else {}
    watch.add("total", time.perf_counter() - started)
    metrics: dict[str, Any] = {"schema": 1, "settings": _record(settings, index, out)}
    if broken:
        metrics["skipped"] = broken
    metrics |= score(index, settings.methods, out) | of_student
    metrics["seconds"] = {key: 0.0 for key in ("flow", "teacher", "refiner", "propagate", "total")} | watch.seconds
    write_json(out / "metrics.json", metrics)
    write_report(index, metrics, out)
    write_page(index, metrics, out)
    return metrics


def dry_run(settings: Settings) -> str:
    """What :func:`autolabel` would do, in words, and about how long it would take; nothing is written."""
    index = index_of(settings)
    settings = check_folders(settings, index)
    _check_labels(settings, index, check_files(index, settings.needs_teacher))
    data = _data(settings, index)
    return describe(settings, data, plan(settings, data), Costs(settings, data))


def index_of(settings: Settings) -> ClipIndex:
    """The clips of a run, with labels hidden as it was asked for."""
    index = open_index(settings.root, settings.layout, settings.split)
    anchors = Path(settings.anchors) if settings.anchors is not None else None
    return select_clips(index, settings.clips, settings.label_every, settings.label_offset, anchors)


def _check_labels(settings: Settings, index: ClipIndex, checked: Checked) -> None:
    """Warn of clips whose labels have no class, and raise DataError where networks would learn from nothing else."""
    anchors = [(clip, anchor) for clip in index.clips for anchor in clip.anchors]
    trains_refiner = settings.needs_refiner and settings.refiner is None
    trains_network = (settings.needs_teacher and settings.teacher is None) or settings.student is not None
    first = anchors[0][0].frames[anchors[0][1]].label
    if not checked.shown and (trains_refiner or (trains_network and not checked.images)):
        raise nothing_to_learn(len(anchors), first)
    folds = settings.teacher_folds if trains_refiner and not checked.images else 0
    for fold in range(folds):
        kept = [anchor for number, anchor in enumerate(anchors) if number % folds != fold]
        if not any((clip.name, anchor) in checked.shown for clip, anchor in kept):
            raise nothing_to_learn(len(kept), first, f" of fold {fold + 1} of --teacher-folds {folds}")
    for name in checked.unlabelled:
        logger.warning("No label of clip %s has a pixel with a class: its frames stay 255, but by semantic", name)


def check_folders(settings: Settings, index: ClipIndex) -> Settings:
    """The settings with the folders to write to, links followed; WrpError if one of them is somebody else's."""
    reads = index.reads
    out = check_output(Path(settings.out), RUN, reads)
    if settings.flow_cache is None:
        return replace(settings, out=str(out))
    taken = {*reads, *((out / name).resolve() for name in (TEMPORARY, *WRITTEN))}
    flow = check_output(Path(settings.flow_cache), FLOW, taken, "--flow-cache")
    return replace(settings, out=str(out), flow_cache=str(flow))


def open_run(out: Path) -> ClipIndex:
    """The clips of a run that was made before, but for those that it has skipped; WrpError if there is none."""
    if not (out / "settings.json").is_file():
        raise WrpError(f"there is no {out / 'settings.json'}: expected the output of `wrp autolabel`")
    kept, skipped = _read_run(out / "settings.json"), _read_run(out / "metrics.json").get("skipped")
    names = ("root", "layout", "split", "clips", "label_every", "label_offset", "anchors")
    try:
        settings = read_settings({name: kept[name] for name in names if name in kept} | {"out": str(out)})
    except WrpError as error:
        raise WrpError(f"{out / 'settings.json'} is damaged ({error}); make the run again") from error
    index = index_of(settings)
    return without(index, skipped if isinstance(skipped, dict) else ())


def _read_run(path: Path) -> dict[str, Any]:
    """A JSON file of a run, empty where it is not there; DataError if it is damaged."""
    return read_json(path, "make the run again") if path.is_file() else {}


def without(index: ClipIndex, names: Collection[str]) -> ClipIndex:
    """The index without some clips."""
    return replace(index, clips=tuple(clip for clip in index.clips if clip.name not in names))


def demo(out: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Autolabel a generated street scene whose truth is known at every frame; see the command of this name."""
    root, run = generate_folder(out / "scene", seed=seed), out / "run"
    metrics = autolabel(Settings(root=str(root), out=str(run), label_every=12, seed=seed, **{**DEMO, **changes}))
    assert metrics is not None
    return metrics


# The demo's trainings are sized for two CPU cores and under four minutes all told.
DEMO: dict[str, Any] = {"weights": "none", "teacher_steps": 400, "refiner_steps": 250}


def check_shard(settings: Settings, data: VideoDataModule, out: Path) -> None:
    """Raise WrpError where jobs that share the work would each train networks or calibrate for themselves."""
    needed = {
        "teacher.ckpt": settings.needs_teacher and settings.teacher is None,
        "refiner.ckpt": settings.needs_refiner and settings.refiner is None,
        CALIBRATION: len(HeldOutItems(data.index.clips, data.label_map)) > 0,
    }
    missing = [name for name, needs in needed.items() if needs and not (out / name).is_file()]
    if settings.shard is not None and missing:
        raise WrpError(
            f"--shard {settings.shard} needs {' and '.join(missing)} in {out}: make them first, once, by the same "
            "command with --limit 0 instead of --shard"
        )


def _labels_hash(index: ClipIndex) -> str:
    """The first 16 digits of the SHA-256 of the labels that a run learns from, and of the frames that they are of."""
    digest = hashlib.sha256()
    frames = [*index.images, *(clip.frames[anchor] for clip in index.clips for anchor in clip.anchors)]
    for frame in frames:
        assert frame.label is not None
        digest.update(f"{frame.stem}\n".encode() + hashlib.sha256(frame.label.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _data(settings: Settings, index: ClipIndex) -> VideoDataModule:
    return VideoDataModule(
        num_classes=index.label_map.num_classes,
        root=settings.root,
        layout=index.layout,
        split=settings.split,
        clips=[clip.name for clip in index.clips],
        label_every=settings.label_every,
        label_offset=settings.label_offset,
        anchors=settings.anchors,
        workers=settings.workers,
        seed=settings.seed,
        shard=settings.shard,
    )


def _propagate(
    settings: Settings,
    data: VideoDataModule,
    teacher: str | None,
    refiner: str | None,
    flow: FlowCache,
    watch: Stopwatch,
    out: Path,
) -> int:
    """Label the intervals that are not written yet, and return how many are left to others or to another time."""
    data.serve = "intervals"
    given = {"teacher": teacher, "refiner": refiner}
    data.done = written_parts(out, {name: file_hash(path) for name, path in given.items() if path is not None})
    units, left = _count(data, frozenset(), (0, 1)), _count(data, data.done, (0, 1))
    mine = _count(data, data.done, data.shard)
    mine = mine if settings.limit is None else min(mine, settings.limit)
    there = f", {units - left} are there already" if left < units else ""
    logger.info("Labelling %d of %d intervals%s", mine, units, there)
    if left:
        started = time.perf_counter()
        module = PropagationModule(
            data.num_classes, settings.methods, teacher, refiner, flow, min_confidence=settings.min_confidence
        )
        with quiet_lightning():
            trainer = pl.Trainer(limit_predict_batches=mine, **plain_trainer(RunWriter(str(out))))
            calibrate(module.to(trainer.strategy.root_device), data, out / CALIBRATION)
            if mine:
                trainer.predict(module, data, return_predictions=False)
        watch.add("propagate", time.perf_counter() - started)
    join_manifest(out)
    left = _count(data, written_parts(out), (0, 1))
    if left and settings.shard is None and settings.limit is None:
        raise WrpError(f"{out}: the labels of {left} intervals are missing; run it again to resume")
    if not left:
        remove_temporaries(out)
        join_manifest(out)  # once more: another job may have joined what it saw before the last part was there
    return left


def _count(data: VideoDataModule, done: frozenset[tuple[str, int, int]], shard: tuple[int, int]) -> int:
    """Intervals of a share that are not done."""
    return len(IntervalItems(data.index.clips, data.label_map, done=done, shard=shard))


def _record(settings: Settings, index: ClipIndex, out: Path) -> dict[str, Any]:
    """The settings with everything that was found out at run time."""
    record = settings.as_json()
    record["layout"] = index.layout
    record["clips"] = [clip.name for clip in index.clips]
    used = out / "weights.json"
    try:
        record["encoder_weights"] = _read_run(used).get("encoder")
    except DataError as error:  # a note, by which nothing is decided
        logger.warning("%s", error)
        record["encoder_weights"] = None
    record["versions"] = versions()
    return record
