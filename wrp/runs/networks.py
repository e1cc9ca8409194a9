"""Stages that train the networks of an autolabel run and its student."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wrp.data.items import WindowItems
from wrp.data.propagation import PropagationData
from wrp.data.run import read_run_file
from wrp.data.segmentation import SegmentationData
from wrp.errors import DataError
from wrp.io.checkpoints import classes_in, labels_seen_by, load_module, read_checkpoint
from wrp.io.manifest import join_manifest, label_hash
from wrp.io.outputs import CONTINUED, TEMPORARY
from wrp.io.writing import write_json
from wrp.propagation.methods import make_methods
from wrp.propagation.methods.base import Needs
from wrp.propagation.module import PropagationModule, load_refiner
from wrp.runs.config import AUTO, Settings
from wrp.runs.job import Job, JobWriter
from wrp.runs.stage import Stage
from wrp.runs.students import student_path, train_student
from wrp.runs.trainer import quiet_lightning
from wrp.runs.training import find_weights, train_refiner, train_teacher
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.module import SegmentationModule, load_segmenter
from wrp.segmentation.network import create_segmenter
from wrp.structures import LabelMap

logger = logging.getLogger("wrp")


def needs(settings: Settings) -> Needs:
    """Tell which networks the methods of a run and its student need, and how many neighbours of a frame.

    Raises:
        WrpError: If there is no such method.

    Example:
        >>> needed = needs(Settings("clips", "out", methods="motion,semantic"))
        >>> needed.teacher, needed.refiner
        (True, False)
    """
    methods = [method.needs for method in make_methods(settings.methods).values()]
    teacher = settings.student == "cisc-r" or any(method.teacher for method in methods)
    neighbours = max((method.neighbours for method in methods), default=0)
    return Needs(teacher=teacher, refiner=any(method.refiner for method in methods), neighbours=neighbours)


def uses_keyframes(settings: Settings) -> bool:
    """Tell whether a method of a run works from keyframes; otherwise clips without a label can be labelled, too.

    Example:
        >>> uses_keyframes(Settings("clips", "out", methods="semantic")), uses_keyframes(Settings("clips", "out"))
        (False, True)
    """
    return any(method.works_from for method in make_methods(settings.methods).values())


def teacher_classes(settings: Settings) -> LabelMap | None:
    """Return the classes in the checkpoint of a given teacher; None if none is given or it does not hold them.

    Example:
        >>> teacher_classes(Settings("clips", "out", methods="semantic")) is None
        True
    """
    if settings.teacher is None or not Path(settings.teacher).is_file():
        return None
    return classes_in(read_checkpoint(Path(settings.teacher), mmap=True), settings.teacher)


def network_paths(settings: Settings) -> dict[str, Path]:
    """Return the checkpoints of the networks that the methods need, by name, whether given or to be trained.

    Example:
        >>> paths = network_paths(Settings("clips", "out", methods="semantic", teacher="my.ckpt"))
        >>> {name: str(path) for name, path in paths.items()}
        {'teacher': 'my.ckpt'}
    """
    needed, out = needs(settings), Path(settings.out)
    return {
        name: Path(given) if given is not None else out / f"{name}.ckpt"
        for name, given in (("teacher", settings.teacher), ("refiner", settings.refiner))
        if getattr(needed, name)
    }


def fold_paths(settings: Settings, out: Path) -> list[Path]:
    """Return the checkpoints of the teachers of folds in the folder of a run.

    Example:
        >>> fold_paths(Settings("clips", "out"), Path("out"))
        []
    """
    folds = settings.train_teacher.folds
    return [out / f"teacher-{number}-of-{folds}.ckpt" for number in range(1, folds + 1)]


def check_networks_made(settings: Settings, num_classes: int) -> None:
    """Load the networks that are given, and make the one that is to be trained, before any work is done.

    Args:
        settings: Settings of the run.
        num_classes: Number of classes.

    Raises:
        WrpError: If a network cannot be used or made.
    """
    load_segmenter(settings.teacher, num_classes)
    load_refiner(settings.refiner, num_classes)
    args = settings.train_teacher
    paths = network_paths(settings)
    trained = [paths["teacher"]] if "teacher" in paths and settings.teacher is None else []
    trained += [student_path(settings)] if settings.student is not None else []
    if all(path.is_file() for path in trained):
        return
    SegmentationLoss(args.losses)
    named = None if args.weights in (AUTO, "none") else args.weights
    for pretrained in (True, False) if args.weights == AUTO else (named is not None,):
        create_segmenter(num_classes, replace(args.recipe(pretrained).network, encoder_weights=named))


def network_stages(job: Job) -> list[Stage]:
    """Return the stages that train the networks which the methods need and which were not given."""
    settings, index, out = job.settings, job.index, job.out
    paths, stages = network_paths(settings), list[Stage]()
    if "teacher" in paths and settings.teacher is None:
        what = f"Training the teacher on {len(index.training_frames)} labelled frames"
        stages.append(Stage("teacher", (), (paths["teacher"],), lambda: _teacher(job, what)))
    if "refiner" in paths and settings.refiner is None:
        folds, of_folds = settings.train_teacher.folds, fold_paths(settings, out)
        for number, path in enumerate(of_folds, 1):
            what = f"Training a teacher for the labels of fold {number} of {folds}"
            train = partial(_fold, job, path, f"{number}/{folds}")
            stages.append(Stage(f"teacher of fold {number}", (), (path,), train, what))
        inputs = (paths["teacher"], *of_folds)
        stages.append(
            Stage(
                "refiner",
                inputs,
                (paths["refiner"],),
                lambda: train_refiner(job, paths["teacher"], of_folds, paths["refiner"]),
                f"Training the refiner on {len(WindowItems(index.clips, index.label_map))} labelled frames",
            )
        )
    return stages


def warn_of_unseen(job: Job) -> None:
    """Warn of clips from which a network that this run has trained did not learn: they were left out at that time."""
    trained = [path for path in network_paths(job.settings).values() if path.parent == job.out and path.is_file()]
    if job.settings.run.continue_from is not None:  # it has learned from what is new, as far as this was wanted
        return
    first = {clip.name: clip.frames[clip.keyframes[0]] for clip in job.index.clips if clip.keyframes}
    for path in trained:
        seen = labels_seen_by(path)
        unseen = [name for name, frame in first.items() if seen and label_hash(frame) not in seen]
        if unseen:
            logger.warning(
                "%s was trained without clip %s, which was left out then: use another --out for networks that learn "
                "from all clips",
                path,
                ", ".join(unseen),
            )


def _teacher(job: Job, what: str) -> None:
    weights = encoder_weights(job)
    propagated = label_by_motion(job) if job.settings.train_teacher.propagated_ratio else None
    logger.info("%s", what)
    train_teacher(job, weights, propagated, network_paths(job.settings)["teacher"])


def _fold(job: Job, path: Path, fold: str) -> None:
    train_teacher(job, encoder_weights(job), None, path, leave_out=fold)


def encoder_weights(job: Job) -> str | None:
    """Return the encoder weights that the networks of the run start from; the first process finds and records them.

    What is recorded holds as soon as a training has begun, here or in a run that is continued: recipes depend on it,
    and a training that was stopped could not go on with another one, whatever weights are at hand now.
    """
    return job.processes.first(lambda: _recorded_or_found(job.settings, job.out))


def _recorded_or_found(settings: Settings, out: Path) -> str | None:
    record = out / "weights.json"
    if (out / CONTINUED).is_file() or next(out.glob("*.ckpt"), None) is not None:
        try:
            recorded = read_run_file(record)
            if "encoder" in recorded:
                return None if recorded["encoder"] is None else str(recorded["encoder"])
        except DataError as error:
            logger.warning("%s", error)
    weights, problem = find_weights(settings)
    if problem is not None:
        logger.warning(
            "Networks start from scratch: ImageNet weights could not be downloaded (%s); use --weights none to "
            "skip the download",
            problem,
        )
    write_json(record, {"encoder": weights})
    return weights


def label_by_motion(job: Job) -> Path | None:
    """Label the clips by motion alone, as training data for the teacher.

    Returns:
        The folder; None where every frame is a keyframe.
    """
    out = job.out / TEMPORARY / "motion"
    if all(len(clip.keyframes) == len(clip.frames) for clip in job.index.clips):
        return None
    data = PropagationData.over(job.index, done=str(out), workers=job.processes.loaders(job.settings.run.workers))
    if job.processes.first(lambda: len(data.intervals((0, 1)))):
        logger.info("Labelling frames by motion, as training data for the teacher")
        with quiet_lightning():
            trainer = job.processes.trainer(JobWriter(str(out), job.check_labels), shown="Labelling by motion")
            trainer.predict(PropagationModule(data.num_classes, flow=job.flow), data, return_predictions=False)
    job.processes.first(lambda: join_manifest(out))
    return out


def student_stages(job: Job) -> list[Stage]:
    """Return the stage that trains the student, if one is wanted."""
    if job.settings.student is None:
        return []

    def train() -> None:
        train_student(job, encoder_weights(job))

    return [Stage("student", (), (student_path(job.settings),), train, "Training the student on all frames")]


def score_student(job: Job) -> dict[str, Any]:
    """Score the student alone on held-out frames.

    Returns:
        ``{"student": {"miou": …, "ece": …}}``, both in percent, None for scores that are undefined;
        empty without a student or without held-out frames.
    """
    settings, index = job.settings, job.index
    if settings.student is None or not any(clip.held_out for clip in index.clips):
        return {}
    data = SegmentationData.over(index, workers=job.processes.loaders(settings.run.workers))
    module = load_module(SegmentationModule, student_path(settings))
    with quiet_lightning():
        [scores] = job.processes.trainer().test(module, data, verbose=False)
    # Both are undefined where no held-out label has a class.
    found = {key: scores.get(f"test/{key}", math.nan) for key in ("miou", "ece")}
    return {"student": {key: None if math.isnan(value) else round(value, 4) for key, value in found.items()}}
