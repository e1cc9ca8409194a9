"""Label clips densely from sparse labels: teacher → refiner → propagation → score → report, each step done once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.callbacks.writer import LabelWriter
from wrp.data.checking import Checked, check_files, check_training_frames, file_hashes, note_on_masks, refuse_all_broken
from wrp.data.classes import nothing_to_learn
from wrp.data.index import ClipIndex, select_clips
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.data.propagation import PropagationData
from wrp.data.run import read_run_file
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import DataError, WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.presets import make_flow
from wrp.io.locking import locked
from wrp.io.manifest import (
    broken_clips,
    check_networks,
    count_parts,
    join_manifest,
    remove_temporaries,
    written_parts,
)
from wrp.io.outputs import FLOW, RUN, TEMPORARY, WRITTEN, check_output, claim, remove_temporary
from wrp.io.versions import versions
from wrp.io.writing import write_json
from wrp.module import file_hash
from wrp.options import SelectArgs, flat, read_shard
from wrp.propagation.methods import make_methods
from wrp.propagation.module import PropagationModule
from wrp.report.markdown import write_report
from wrp.report.metrics import METRICS_SCHEMA
from wrp.report.page import write_page
from wrp.report.scoring import join_scores, score_clips
from wrp.runs.calibrating import CALIBRATION, calibrate
from wrp.runs.config import RefinerTrainingArgs, RunArgs, Settings, TeacherArgs
from wrp.runs.job import Job
from wrp.runs.networks import needs, network_paths, network_stages, score_student, student_stages
from wrp.runs.plan import Costs, describe, plan
from wrp.runs.processes import Processes, launched
from wrp.runs.record import claim_folder, decoded_clips
from wrp.runs.stage import Runner, Stage
from wrp.runs.trainer import quiet_lightning
from wrp.structures import ClipBatch, Prediction

logger = logging.getLogger("wrp")

LOGS = "logs"
"""Folder of a run in which loggers write if nothing else is given."""


class RunWriter(LabelWriter):
    """Write the labels of a run into its folder, and note the clips of which it meets a broken file.

    Args:
        out: Folder of the run.
        threads: Number of threads that write.
        skip: Notes such a clip, see :meth:`~wrp.runs.job.Job.skip`; None: the error is raised.
        flow: Flow that is not needed any more for clips that are labelled; None: it is kept.
        intervals: Number of intervals of each clip.

    Example:
        >>> RunWriter("runs/street").kind
        'run'
    """

    kind = RUN

    def __init__(
        self,
        out: str,
        threads: int = 2,
        skip: Callable[[str, DataError], None] | None = None,
        flow: FlowCache | None = None,
        intervals: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(out, threads)
        self.skip = skip
        self.flow = flow
        self.intervals = intervals or {}

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Iterable[Prediction],
        batch_indices: Sequence[int] | None,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the predictions of one interval, or note that its clip has a broken file."""
        try:
            super().write_on_batch_end(trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx)
            if self.flow is not None and count_parts(self.out, batch.clip) == self.intervals.get(batch.clip):
                self.flow.forget(batch.clip)
        except DataError as error:
            if self.skip is None:
                raise
            self.skip(batch.clip, error)


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
    with launched(settings.run.trainer, settings.run.shard, Path(settings.out, LOGS)) as processes, ExitStack() as held:
        settings, index, broken = processes.first(lambda: _begin(settings, processes, held))
        temporary = Path(settings.out, TEMPORARY)
        flow = FlowCache(
            make_flow(settings.run.flow, settings.run.flow_args), settings.run.flow_cache or str(temporary / "flow")
        )
        return _autolabel(Job(settings, index, flow, processes), broken, started)


def _begin(settings: Settings, processes: Processes, held: ExitStack) -> tuple[Settings, ClipIndex, dict[str, str]]:
    """Check all that a run is made of, and claim its folder.

    Args:
        settings: The settings of the run.
        processes: Its processes.
        held: Gets the lock of the folder.

    Returns:
        The settings with folders resolved, the clips, and what is wrong with each clip that is left out.
    """
    index = index_of(settings)
    settings = check_folders(settings, index)
    out = Path(settings.out)
    labels, frames = _labels_hash(index), file_hashes(index.clips)
    skip, shared = settings.run.on_error == "skip", settings.run.shard is not None
    checked = check_files(read_by(settings, index), needs(settings).teacher, skip, decoded_clips(out, frames))
    refuse_all_broken(index, checked.broken)
    if not shared:  # jobs that share a run have to divide the same clips
        index = index.without(checked.broken)
    _check_labels(settings, index, checked)
    check_shard(settings, index, out)
    _check_processes(settings, index, processes)
    held.enter_context(locked(claim(out, RUN), shared=shared))
    claim_folder(settings, index.root, labels, frames, checked)
    claim(out / TEMPORARY, TEMPORARY)
    logger.info("%s", describe(settings, index, plan(settings, index)))
    return settings, index, checked.broken


def _check_processes(settings: Settings, index: ClipIndex, processes: Processes) -> None:
    """Raise WrpError if the work cannot be divided among the processes."""
    needed = needs(settings)
    if settings.student is not None or (needed.teacher and settings.teacher is None):
        processes.divide(settings.train_teacher.batch, "train_teacher.batch")
    if needed.refiner and settings.refiner is None:
        processes.divide(settings.train_refiner.batch, "train_refiner.batch")
    scored = sum(len(clip.held_out) for clip in index.clips)
    if settings.student is not None and 0 < scored < processes.size:
        raise WrpError(
            f"the student is scored on {scored} held-out frames, fewer than {processes.size} processes: use "
            f"--trainer.devices {scored} or less"
        )


def _autolabel(job: Job, broken: dict[str, str], started: float) -> dict[str, Any] | None:
    """Run the stages of :func:`autolabel` in a folder that belongs to this run."""
    settings, out, processes = job.settings, job.out, job.processes
    runner = Runner(out, processes)
    temporary = out / TEMPORARY

    def finish() -> None:
        remove_temporary(temporary)
        if settings.run.flow_cache is None:
            logger.info("Optical flow was deleted with %s; use --flow-cache DIR to keep it for other runs", temporary)

    trainings = network_stages(job)
    if processes.first(lambda: any(not path.is_file() for stage in trainings for path in stage.outputs)):
        skip = settings.run.on_error == "skip"
        unread = processes.first(lambda: check_training_frames(job.index, out, skip))
        job = replace(job, index=job.index.without(unread))
        trainings = network_stages(job)
    finished = runner.run(
        [
            *trainings,
            Stage("propagate", (), (), lambda: _propagate(job)),
            Stage("finish", (), (), finish, alone=True),
        ]
    )
    if finished:
        broken = processes.first(lambda: broken_clips(out))
        job = replace(job, index=job.index.without(broken))
        runner.run(student_stages(job))
    seconds = sum(processes.gather(job.flow.seconds))
    if processes.is_first:
        runner.add("flow", seconds)
        runner.add("total", time.perf_counter() - started)
    if not finished:
        return None
    methods = tuple(settings.methods)
    parts = processes.gather(score_clips(job.index, processes.part(job.index.clips), methods, out))
    scores = join_scores(job.index, methods, parts) | score_student(job)

    def report() -> dict[str, Any]:
        metrics: dict[str, Any] = {"schema": METRICS_SCHEMA, "settings": _record(settings, job.index, out)}
        if broken:
            metrics["skipped"] = broken
        metrics |= scores
        taken = {name: took for name, took in runner.seconds.items() if name != "finish"}
        metrics["seconds"] = {key: 0.0 for key in ("flow", "teacher", "refiner", "propagate", "total")} | taken
        write_json(out / "metrics.json", metrics)
        write_reports(job.index, metrics, out)
        _log_scores(job, metrics)
        return metrics

    return processes.first(report)


def _log_scores(job: Job, metrics: dict[str, Any]) -> None:
    """Log the settings and the scores of a finished run, in percent, by the user's loggers."""
    scores = {f"{method}/miou": found.get("miou") for method, found in metrics["overall"].items()}
    scores["student/miou"] = metrics.get("student", {}).get("miou")
    with quiet_lightning():
        for logger_ in job.processes.loggers("score"):
            logger_.log_hyperparams(dict(flat(metrics["settings"])))
            logger_.log_metrics({name: score for name, score in scores.items() if score is not None})
            logger_.finalize("success")


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
    _check_labels(settings, index, check_files(read_by(settings, index), needs(settings).teacher))
    return describe(settings, index, plan(settings, index), Costs(settings, index))


def index_of(settings: Settings) -> ClipIndex:
    """Find the clips of a run, and hold labels out as its settings require."""
    return select_clips(open_index(settings.root, settings.layout, settings.split), settings.select)


def read_by(settings: Settings, index: ClipIndex) -> ClipIndex:
    """Return the clips that a job reads: those of its shard."""
    if settings.run.shard is None:
        return index
    shard = read_shard(settings.run.shard, "--shard")
    mine = {one.clip.name for one in IntervalItems(index.clips, index.label_map, shard=shard).intervals}
    return replace(index, clips=tuple(clip for clip in index.clips if clip.name in mine))


def _check_labels(settings: Settings, index: ClipIndex, checked: Checked) -> None:
    """Warn of clips whose labels show no class, and raise DataError if networks would have only such labels."""
    keyframes = [(clip, keyframe) for clip in index.clips for keyframe in clip.keyframes]
    needed = needs(settings)
    trains_refiner = needed.refiner and settings.refiner is None
    trains_network = (needed.teacher and settings.teacher is None) or settings.student is not None
    first = keyframes[0][0].frames[keyframes[0][1]].label
    whole = settings.run.shard is None  # with a shard, no network is trained
    if whole and not checked.shown and (trains_refiner or (trains_network and not checked.images)):
        raise nothing_to_learn(len(keyframes), first)
    folds = settings.train_teacher.folds if whole and trains_refiner and not checked.images else 0
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


# The trainings of the demo are sized for a run of less than five minutes on two CPU cores.
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


def _propagate(job: Job) -> bool:
    """Label the intervals that are not written yet, and tell whether all are written now."""
    settings, index, out, processes = job.settings, job.index, job.out, job.processes
    run = settings.run
    given: dict[str, Any] = {name: str(path) for name, path in network_paths(settings).items()}
    processes.first(lambda: check_networks(out, {name: file_hash(path) for name, path in given.items()}))
    data = PropagationData.over(index, shard=run.shard, done=str(out), workers=processes.loaders(run.workers))
    intervals = Counter(interval.clip.name for interval in IntervalItems(index.clips, index.label_map).intervals)
    units, left = sum(intervals.values()), len(data.intervals((0, 1)))
    mine = len(data.intervals()) if run.limit is None else min(len(data.intervals()), run.limit)
    there = f", {units - left} are labelled already" if left < units else ""
    logger.info("Labelling %d of %d intervals%s", mine, units, there)
    processes.barrier()  # no process writes before all have seen what is left
    if left:
        module = PropagationModule(
            data.num_classes, settings.methods, **given, flow=job.flow, min_confidence=run.min_confidence
        )
        calibrate(module.to(processes.device), job, out / CALIBRATION)
        job.flow.keeps_direct = run.flow_cache is not None  # no later stage of this run needs that of labelling
        if mine:
            of_process = len(processes.part(range(mine)))
            with quiet_lightning():
                limits: dict[str, Any] = {} if run.limit is None else {"limit_predict_batches": of_process}
                needless = job.flow if run.flow_cache is None else None
                trainer = processes.trainer(
                    RunWriter(str(out), skip=job.skip, flow=needless, intervals=intervals), **limits
                )
                trainer.predict(module, data, return_predictions=False)

    def is_finished() -> bool:
        join_manifest(out)
        left = len(IntervalItems(index.without(broken_clips(out)).clips, index.label_map, done=written_parts(out)))
        if left and run.shard is None and run.limit is None:
            raise WrpError(f"{out}: the labels of {left} intervals are missing; run the same command again")
        if left:
            logger.info("%d intervals are left; run the command again without --limit and --shard to finish", left)
            return False
        remove_temporaries(out)
        join_manifest(out)  # once more: another job may have joined the parts before the last one was written
        return True

    return processes.first(is_finished)


def _record(settings: Settings, index: ClipIndex, out: Path) -> dict[str, Any]:
    """Return the settings with what was found at run time: clips, layout, encoder weights and versions."""
    record = settings.as_json() | {"root": str(index.root.resolve())}
    record["layout"] = index.layout
    record["clips"] = [clip.name for clip in index.clips]
    used: dict[str, Any] = {}
    try:
        used = read_run_file(out / "weights.json")
    except DataError as error:  # for information only: no decision depends on it
        logger.warning("%s", error)
    record["encoder_weights"] = used.get("encoder")
    if "encoder" in used:  # a teacher was trained, and by this recipe
        record["train_teacher"] |= asdict(settings.train_teacher.recipe(used["encoder"] is not None))
    record["versions"] = versions()
    return record
