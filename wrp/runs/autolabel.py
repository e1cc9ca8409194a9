"""Label clips densely from sparse labels: teacher → refiner → propagation → score → report, each step done once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.data.checking import (
    Checked,
    check_files,
    check_training_frames,
    file_hashes,
    note_on_masks,
    notes_on_numbers,
    refuse_all_broken,
)
from wrp.data.classes import nothing_to_learn
from wrp.data.index import CLIP, ClipIndex, select_clips
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.data.propagation import PropagationData
from wrp.data.run import keep_classes, read_run_file
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import DataError, WrpError, listed
from wrp.flow.cache import FlowCache
from wrp.flow.presets import make_flow
from wrp.io.checkpoints import network_hash
from wrp.io.locking import locked
from wrp.io.manifest import (
    broken_clips,
    check_networks,
    count_parts,
    join_manifest,
    remove_temporaries,
    written_parts,
)
from wrp.io.outputs import (
    CONTINUED,
    FLOW,
    RUN,
    TEMPORARY,
    WRITTEN,
    check_output,
    check_place,
    claim,
    remove_temporary,
)
from wrp.io.tables import format_score
from wrp.io.versions import versions
from wrp.io.writing import remove_leftovers, write_json
from wrp.options import SelectArgs, flat, read_shard
from wrp.propagation.methods import make_methods
from wrp.propagation.module import PropagationModule
from wrp.report.markdown import write_report
from wrp.report.metrics import METRICS_SCHEMA
from wrp.report.page import write_page
from wrp.report.scoring import join_scores, score_clips
from wrp.runs.calibrating import AUDIT, CALIBRATION, ESTIMATE, calibrate, has_told
from wrp.runs.config import RefinerTrainingArgs, RunArgs, Settings, TeacherArgs
from wrp.runs.continuing import check_continued, continue_run, find_common, label_changes
from wrp.runs.early import open_clips
from wrp.runs.job import Job, JobWriter
from wrp.runs.networks import (
    check_networks_made,
    needs,
    network_paths,
    network_stages,
    score_student,
    student_stages,
    teacher_classes,
    uses_keyframes,
    warn_of_unseen,
)
from wrp.runs.plan import Costs, describe, plan
from wrp.runs.processes import Processes, launched
from wrp.runs.record import check_computing, check_unchanged, claim_folder, decoded_clips, hash_labels
from wrp.runs.stage import Runner, Stage
from wrp.runs.trainer import logger_folders, quiet_lightning
from wrp.runs.training import fitted
from wrp.structures import ClipBatch, Prediction
from wrp.suggest.suggestions import suggest

logger = logging.getLogger("wrp")

# Number of frames that a report suggests to label next.
REPORTED = 3

LOGS = "logs"
"""Folder of a run in which loggers write if nothing else is given."""


class RunWriter(JobWriter):
    """Write the labels of a run into its folder, and note the clips of which it meets a broken file.

    Args:
        out: Folder of the run.
        threads: Number of threads that write.
        skip: Notes such a clip, see :meth:`~wrp.runs.job.Job.skip`; None: the error is raised.
        flow: Flow that is not needed any more for clips that are labelled; None: it is kept.
        intervals: Number of intervals of each clip.
        check: See :class:`~wrp.runs.job.JobWriter`.

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
        check: Callable[[ClipBatch], None] | None = None,
    ) -> None:
        super().__init__(out, check, threads)
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


def autolabel(settings: Settings, opened: ClipIndex | None = None) -> dict[str, Any] | None:
    """Label every frame of every clip, as `wrp autolabel` does.

    Args:
        settings: The settings of the run.
        opened: Its clips, if :func:`~wrp.runs.early.open_early` has just found them.

    Returns:
        The content of ``metrics.json``; None if intervals are left because of a shard or a limit.

    Raises:
        WrpError: If data, checkpoints or settings cannot be used; nothing is written then.
    """
    started = time.perf_counter()
    with launched(settings.run.trainer, settings.run.shard, Path(settings.out, LOGS)) as processes, ExitStack() as held:
        estimator = make_flow(settings.run.flow, settings.run.flow_args)
        settings, index, broken = processes.first(lambda: _begin(settings, opened, processes, held))
        temporary = Path(settings.out, TEMPORARY)
        flow = FlowCache(estimator, settings.run.flow_cache or str(temporary / "flow"))
        return _autolabel(Job(settings, index, flow, processes), broken, started)


def _begin(
    settings: Settings, opened: ClipIndex | None, processes: Processes, held: ExitStack
) -> tuple[Settings, ClipIndex, dict[str, str]]:
    """Check all that a run is made of, and claim its folder.

    Args:
        settings: The settings of the run.
        opened: Its clips, if they have been found already.
        processes: Its processes.
        held: Gets the lock of the folder.

    Returns:
        The settings with folders resolved, the clips, and what is wrong with each clip that is left out.
    """
    index = index_of(settings, opened)
    settings = check_folders(settings, index)
    out = Path(settings.out)
    labels, frames = _label_hashes(index), file_hashes(index.clips)
    skip, shared = settings.run.on_error == "skip", settings.run.shard is not None
    checked = check_files(read_by(settings, index), needs(settings).teacher, skip, decoded_clips(out, frames))
    for clip, problem in index.broken.items():
        logger.warning("Skipping clip %s: %s", clip, problem)
    checked.broken |= index.broken
    refuse_all_broken(index, checked.broken)
    if not shared:  # jobs that share a run have to divide the same clips
        index = index.without(checked.broken)
    _check_labels(settings, index, checked)
    check_shard(settings, index, out)
    check_continued(settings, index)
    if settings.run.continue_from is not None and not (out / CONTINUED).is_file():
        remedy = "leave out --continue, as labels of both would be mixed"
        check_computing(Path(settings.run.continue_from), processes.device.type, remedy)
    _check_processes(settings, index, processes)
    check_networks_made(settings, index.label_map.num_classes)
    held.enter_context(locked(claim(out, RUN), shared=shared))
    if not shared:
        remove_leftovers(out)
    claim_folder(settings, index.root, labels, frames, checked, processes.device.type, index.label_map)
    index = keep_classes(index, out)
    claim(out / TEMPORARY, TEMPORARY)
    continue_run(settings, index)
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
    trainings = network_stages(job)
    if processes.first(lambda: any(not path.is_file() for stage in trainings for path in stage.outputs)):
        skip = settings.run.on_error == "skip"
        unread = processes.first(lambda: check_training_frames(job.index, out, skip))
        job = replace(job, index=job.index.without(unread))
        trainings = network_stages(job)
    processes.first(lambda: warn_of_unseen(job))
    finished = runner.run(
        [
            *trainings,
            Stage("propagate", (), (), lambda: _propagate(job)),
            Stage("finish", (), (), lambda: remove_temporary(out / TEMPORARY), alone=True),
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
        if foretold := _estimates(job.index, out):
            metrics["estimate"] = foretold
        if contradictions := _contradictions(out):
            metrics["contradictions"] = contradictions
        if changes := label_changes(job.index, out):
            metrics["continued"] = changes
        taken = {name: took for name, took in runner.seconds.items() if name != "finish"}
        metrics["seconds"] = {key: 0.0 for key in ("flow", "teacher", "refiner", "propagate", "total")} | taken
        write_json(out / "metrics.json", metrics)
        write_reports(job.index, metrics, out)
        _log_scores(job, metrics)
        return metrics

    return processes.first(report)


def _estimates(index: ClipIndex, out: Path) -> dict[str, Any]:
    """Read the scores that each method is estimated to have, with the names of the classes."""
    if not (out / ESTIMATE).is_file():
        return {}
    found = read_run_file(out / ESTIMATE)
    for scores in found.values():
        scores["per_class"] = dict(zip(index.label_map.names, scores["per_class"], strict=True))
    return found


def _contradictions(out: Path) -> list[dict[str, Any]]:
    """Read where labels of keyframes contradict those of their neighbours."""
    if not (out / AUDIT).is_file():
        return []
    found: list[dict[str, Any]] = read_run_file(out / AUDIT)["contradictions"]
    return found


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
    suggested = _suggested(index, out)
    write_report(index, metrics, out, suggested)
    write_page(index, metrics, out, result.needs.teacher, suggested)


def _suggested(index: ClipIndex, out: Path) -> list[str]:
    """Name the frames to label next, where no score says how good the labels are; none if there are no such frames."""
    clips = [clip for clip in index.clips if clip.keyframes and len(clip.keyframes) < len(clip.frames)]
    if not clips or any(clip.held_out for clip in index.clips):
        return []
    try:
        found = suggest(replace(index, clips=tuple(clips)), out, REPORTED)
    except WrpError:  # labels were added since: what they change is not known
        return []
    return [f"{one.clip.name}/{one.stem}" for one in found]


def dry_run(settings: Settings, opened: ClipIndex | None = None) -> str:
    """Describe what :func:`autolabel` would do and estimate how long it would take, without writing anything."""
    index = index_of(settings, opened)
    settings = check_folders(settings, index)
    _check_labels(settings, index, check_files(read_by(settings, index), needs(settings).teacher))
    check_continued(settings, index)
    taken: frozenset[tuple[str, int, int]] = frozenset()
    counted: frozenset[tuple[str, int]] = frozenset()
    if settings.run.continue_from is not None and not (Path(settings.out) / CONTINUED).is_file():
        common = find_common(settings, index)
        taken, counted = common.done, frozenset(common.counted)
    return describe(settings, index, plan(settings, index, taken, counted), Costs(settings, index))


def index_of(settings: Settings, opened: ClipIndex | None = None) -> ClipIndex:
    """Find the clips of a run, unless they have been, and hold labels out as its settings require."""
    by_network = not uses_keyframes(settings)
    classes = teacher_classes(settings) if by_network else None
    index = open_clips(settings, classes) if opened is None else opened
    return select_clips(index, settings.select, by_network, settings.run.on_error == "skip")


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
    whole = settings.run.shard is None  # with a shard, no network is trained
    if not keyframes and whole and trains_network and not checked.images:
        raise DataError(
            f"no frame of {index.root} has a label to learn from: label at least one, or pass --teacher CKPT without "
            "--student"
        )
    if settings.student is not None and whole and len(keyframes) == sum(len(clip.frames) for clip in index.clips):
        raise DataError(
            f"every frame of {index.root} has a label, and a student learns from propagated ones: hold labels out with "
            "--label-every K, or leave out --student"
        )
    first = keyframes[0][0].frames[keyframes[0][1]].label if keyframes else None
    if whole and not checked.shown and (trains_refiner or (trains_network and not checked.images)):
        raise nothing_to_learn(len(keyframes), first)
    folds = settings.train_teacher.folds if whole and trains_refiner and not checked.images else 0
    for fold in range(folds):
        kept = [keyframe for number, keyframe in enumerate(keyframes) if number % folds != fold]
        if not any((clip.name, keyframe) in checked.shown for clip, keyframe in kept):
            raise nothing_to_learn(len(kept), first, f" of fold {fold + 1} of --teacher-folds {folds}")
    # Of many clips, `wrp data check` looks at the numbers: it takes time.
    late = notes_on_numbers(index) if index.layout == CLIP else ()
    for note in [*index.notes, note_on_masks(index.label_map, checked.pixels), *late]:
        if note is not None:
            logger.warning("%s", note)
    theirs = teacher_classes(settings)
    if theirs is not None and theirs.names != index.label_map.names:
        logger.warning(
            "The teacher has learned the classes %s, those of %s are %s: its labels fit only if they mean the same, in "
            "this order",
            ", ".join(theirs.names),
            index.root,
            ", ".join(index.label_map.names),
        )
    by_network = {clip.name for clip in index.clips if clip.by_network}
    for name in sorted(set(checked.unlabelled) - by_network):
        logger.warning("No label of clip %s has a pixel with a class: only semantic can label its frames", name)


def check_folders(settings: Settings, index: ClipIndex) -> Settings:
    """Check the folders to write to, and return the settings with them, and paths of labels, resolved.

    Raises:
        WrpError: If a folder holds files of another program, is read from, or cannot be written to.
    """
    named = settings.run.continue_from, settings.select.labels
    reads = index.reads | {Path(folder).resolve() for folder in named if folder is not None}
    out = check_output(Path(settings.out), RUN, reads)
    for folder in logger_folders(settings.run.trainer):
        check_place(folder, reads, "--trainer.logger.save_dir")
    # The record of the run is read from anywhere.
    labels, never = (path and str(Path(path).resolve()) for path in (settings.select.labels, settings.select.never))
    settings = replace(settings, select=replace(settings.select, labels=labels, never=never))
    if settings.run.flow_cache is None:
        return replace(settings, out=str(out))
    taken = {*reads, *((out / name).resolve() for name in (TEMPORARY, *WRITTEN))}
    flow = check_output(Path(settings.run.flow_cache), FLOW, taken, "--flow-cache")
    return replace(settings, out=str(out), run=replace(settings.run, flow_cache=str(flow)))


def demo(out: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Autolabel a generated street scene whose ground truth is known at every frame, as `wrp demo` does.

    It is labelled by motion alone first, along a fast flow, which takes seconds, and then with networks.

    Args:
        out: Folder for ``scene/``, ``motion/`` and ``run/``.
        seed: Seed of the scene and of the run.
        changes: Fields of :class:`~wrp.runs.config.Settings` to change.

    Returns:
        The content of ``metrics.json``.
    """
    started = time.perf_counter()
    logger.info("Step 1 of 3: generate a street scene; its true labels are known, so that labels can be scored")
    root, run = generate_folder(out / "scene", seed=seed), out / "run"
    settings = Settings(root=str(root), out=str(run), select=SelectArgs(label_every=12), run=RunArgs(seed=seed))
    logger.info("Step 2 of 3: carry every 12th label to the other frames along a fast optical flow; nothing is trained")
    fast = RunArgs(seed=seed, flow="dis-fast")  # for a first look
    first = autolabel(replace(settings, out=str(out / "motion"), methods="motion", run=fast))
    assert first is not None
    [clip] = first["settings"]["clips"]
    logger.info(
        "First picture after %.0f s: %s (mIoU %s)",
        time.perf_counter() - started,
        out / "motion" / "report" / f"{clip}.png",
        format_score(first["overall"]["motion"]["miou"]),
    )
    logger.info(
        "Step 3 of 3: train a teacher, which fills in where motion fails, and a refiner, which corrects; label again"
    )
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
        CONTINUED: settings.run.continue_from is not None,
    }
    missing = [name for name, lacks in needed.items() if lacks and not (out / name).is_file()]
    if settings.run.shard is not None and missing:
        raise WrpError(
            f"--shard {settings.run.shard} needs {' and '.join(missing)} in {out}: first run the same command "
            "once with --limit 0 instead of --shard"
        )


def _label_hashes(index: ClipIndex) -> dict[str, dict[str, str]]:
    """Hash the labels that a run learns from, by clip name; those of further images are under ""."""
    frames = {clip.name: [clip.frames[keyframe] for keyframe in clip.keyframes] for clip in index.clips}
    return {clip: hash_labels(found) for clip, found in ({"": list(index.images)} | frames).items()}


def _read_again(job: Job) -> ClipIndex:
    """Find the clips that a job has read as they are at its end, and warn of labels that have come since.

    The run goes by what it was begun with. Labels that are drawn meanwhile may not even be readable yet.
    """
    mine = read_by(job.settings, job.index)
    try:
        now = index_of(job.settings)
    except DataError as error:
        logger.warning("%s; this run goes by the labels that it was begun with", error)
        return mine
    known = _labels_of(job.index)
    if added := [str(label) for frame, label in _labels_of(now).items() if frame not in known]:
        logger.warning(
            "%s came while the run was at work, which does not use %s: go on afterwards with --out NEW --continue %s",
            listed(added, 3),
            "them" if len(added) > 1 else "it",
            job.out,
        )
    names = {clip.name for clip in mine.clips}
    return replace(now, clips=tuple(clip for clip in now.clips if clip.name in names))


def _labels_of(index: ClipIndex) -> dict[tuple[str, str], Path]:
    """Return all labels, whether they are learned from or held out, by clip and frame."""
    frames = [("", frame) for frame in index.images]
    frames += [(clip.name, frame) for clip in index.clips for frame in clip.frames]
    return {(clip, frame.stem): frame.label for clip, frame in frames if frame.label is not None}


def _propagate(job: Job) -> bool:
    """Label the intervals that are not written yet, and tell whether all are written now."""
    settings, index, out, processes = job.settings, job.index, job.out, job.processes
    run = settings.run
    given: dict[str, Any] = {name: str(path) for name, path in network_paths(settings).items()}
    processes.first(lambda: check_networks(out, {name: network_hash(path) for name, path in given.items()}))
    data = PropagationData.over(index, shard=run.shard, done=str(out), workers=processes.loaders(run.workers))
    intervals = Counter(interval.clip.name for interval in IntervalItems(index.clips, index.label_map).intervals)
    units, left = sum(intervals.values()), len(data.intervals((0, 1)))
    mine = len(data.intervals()) if run.limit is None else min(len(data.intervals()), run.limit)
    there = f", {units - left} {'is' if units - left == 1 else 'are'} labelled already" if left < units else ""
    logger.info("Labelling %d of %d intervals%s", mine, units, there)
    # A run that has taken over all intervals of another one still tells what its own keyframes say of them.
    untold = processes.first(lambda: (out / CONTINUED).is_file() and not has_told(out))
    processes.barrier()  # no process writes before all have seen what is left
    if left or untold:
        processes.first(lambda: check_computing(out, processes.device.type))
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
                kept: dict[str, Any] = {"flow": needless, "intervals": intervals}
                writer = RunWriter(str(out), skip=job.skip, check=job.check_labels, **kept)
                trainer = processes.trainer(writer, shown="Labelling", **limits)
                trainer.predict(module, data, return_predictions=False)

    def is_finished() -> bool:
        job.check_labels()
        check_unchanged(out, _read_again(job), network_paths(settings))
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
        record["train_teacher"] |= asdict(fitted(settings.train_teacher.recipe(used["encoder"] is not None), index))
    record["versions"] = versions()
    return record
