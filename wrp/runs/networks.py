"""Stages that train the networks of an autolabel run and its student."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

from wrp.callbacks.writer import LabelWriter
from wrp.data.items import WindowItems
from wrp.data.propagation import PropagationData
from wrp.data.segmentation import SegmentationData
from wrp.io.checkpoints import load_module
from wrp.io.manifest import join_manifest
from wrp.io.outputs import TEMPORARY
from wrp.io.writing import write_json
from wrp.propagation.methods import make_methods
from wrp.propagation.methods.base import Needs
from wrp.propagation.module import PropagationModule
from wrp.runs.config import Settings
from wrp.runs.job import Job
from wrp.runs.stage import Stage
from wrp.runs.students import student_path, train_student
from wrp.runs.trainer import quiet_lightning
from wrp.runs.training import find_weights, train_refiner, train_teacher
from wrp.segmentation.module import SegmentationModule

logger = logging.getLogger("wrp")


def needs(settings: Settings) -> Needs:
    """Tell which networks the methods of a run and its student need.

    Raises:
        WrpError: If there is no such method.

    Example:
        >>> needed = needs(Settings("clips", "out", methods="motion,semantic"))
        >>> needed.teacher, needed.refiner
        (True, False)
    """
    methods = [method.needs for method in make_methods(settings.methods).values()]
    teacher = settings.student == "cisc-r" or any(method.teacher for method in methods)
    return Needs(teacher=teacher, refiner=any(method.refiner for method in methods))


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


def network_stages(job: Job) -> list[Stage]:
    """Return the stages that train the networks which the methods need and which were not given."""
    settings, index, out = job.settings, job.index, job.out
    paths, stages = network_paths(settings), list[Stage]()
    if "teacher" in paths and settings.teacher is None:
        what = f"Training the teacher on {len(index.training_frames)} labelled frames"
        stages.append(Stage("teacher", (), (paths["teacher"],), lambda: _teacher(job, what)))
    if "refiner" in paths and settings.refiner is None:
        folds = settings.train_teacher.folds
        of_folds = [out / f"teacher-{number}-of-{folds}.ckpt" for number in range(1, folds + 1)]
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


def _teacher(job: Job, what: str) -> None:
    settings = job.settings
    weights, problem = job.processes.first(lambda: find_weights(settings))
    if problem is not None:
        logger.warning(
            "The teacher starts from scratch: ImageNet weights could not be downloaded (%s); use --weights none to "
            "skip the download",
            problem,
        )
    job.processes.first(lambda: write_json(job.out / "weights.json", {"encoder": weights}))
    propagated = label_by_motion(job) if settings.train_teacher.propagated_ratio else None
    logger.info("%s", what)
    train_teacher(job, weights, propagated, network_paths(settings)["teacher"])


def _fold(job: Job, path: Path, fold: str) -> None:
    train_teacher(job, encoder_weights(job), None, path, leave_out=fold)


def encoder_weights(job: Job) -> str | None:
    """Return the encoder weights that a network of the run starts from; the first process downloads them."""
    return job.processes.first(lambda: find_weights(job.settings))[0]


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
            trainer = job.processes.trainer(LabelWriter(str(out)))
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
