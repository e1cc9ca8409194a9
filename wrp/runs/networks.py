"""Stages that train the networks of an autolabel run and its student."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.callbacks.writer import LabelWriter
from wrp.data.index import ClipIndex
from wrp.data.items import WindowItems
from wrp.data.propagation import PropagationData
from wrp.data.segmentation import SegmentationData
from wrp.flow.cache import FlowCache
from wrp.io.checkpoints import load_module
from wrp.io.manifest import join_manifest
from wrp.io.outputs import TEMPORARY
from wrp.io.writing import write_json
from wrp.propagation.methods import make_methods
from wrp.propagation.methods.base import Needs
from wrp.propagation.module import PropagationModule
from wrp.runs.config import Settings
from wrp.runs.stage import Stage
from wrp.runs.students import student_path, train_student
from wrp.runs.training import (
    find_weights,
    plain_trainer,
    quiet_lightning,
    train_refiner,
    train_teacher,
)
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


def network_stages(settings: Settings, index: ClipIndex, flow: FlowCache) -> list[Stage]:
    """Return the stages that train the networks which the methods need and which were not given."""
    out, paths, stages = Path(settings.out), network_paths(settings), list[Stage]()
    if "teacher" in paths and settings.teacher is None:
        what = f"Training the teacher on {len(index.training_frames)} labelled frames"
        stages.append(Stage("teacher", (), (paths["teacher"],), lambda: _teacher(settings, index, flow, what)))
    if "refiner" in paths and settings.refiner is None:
        folds = settings.train_teacher.folds
        of_folds = [out / f"teacher-{number}-of-{folds}.ckpt" for number in range(1, folds + 1)]
        for number, path in enumerate(of_folds, 1):
            what = f"Training a teacher for the labels of fold {number} of {folds}"
            train = partial(_fold, settings, index, path, f"{number}/{folds}")
            stages.append(Stage(f"teacher of fold {number}", (), (path,), train, what))
        inputs = (paths["teacher"], *of_folds)
        stages.append(
            Stage(
                "refiner",
                inputs,
                (paths["refiner"],),
                lambda: train_refiner(settings, index, paths["teacher"], of_folds, flow, paths["refiner"]),
                f"Training the refiner on {len(WindowItems(index.clips, index.label_map))} labelled frames",
            )
        )
    return stages


def _teacher(settings: Settings, index: ClipIndex, flow: FlowCache, what: str) -> None:
    out = Path(settings.out)
    weights, problem = find_weights(settings)
    if problem is not None:
        logger.warning(
            "The teacher starts from scratch: ImageNet weights could not be downloaded (%s); use --weights none to "
            "skip the download",
            problem,
        )
    write_json(out / "weights.json", {"encoder": weights})
    motion = out / TEMPORARY / "motion"
    propagated = label_by_motion(index, flow, motion) if settings.train_teacher.propagated_ratio else None
    logger.info("%s", what)
    train_teacher(settings, index, weights, propagated, network_paths(settings)["teacher"])


def _fold(settings: Settings, index: ClipIndex, path: Path, fold: str) -> None:
    train_teacher(settings, index, find_weights(settings)[0], None, path, leave_out=fold)


def label_by_motion(index: ClipIndex, flow: FlowCache, out: Path) -> Path | None:
    """Label the clips by motion alone, as training data for the teacher.

    Args:
        index: The clips.
        flow: Flow estimator.
        out: Folder to write to.

    Returns:
        The folder; None where every frame is a keyframe.
    """
    if all(len(clip.keyframes) == len(clip.frames) for clip in index.clips):
        return None
    data = PropagationData.over(index, done=str(out))
    if len(data.intervals()):
        logger.info("Labelling frames by motion, as training data for the teacher")
        with quiet_lightning():
            trainer = pl.Trainer(**plain_trainer(LabelWriter(str(out))))
            trainer.predict(PropagationModule(data.num_classes, flow=flow), data, return_predictions=False)
    join_manifest(out)
    return out


def student_stages(settings: Settings, index: ClipIndex) -> list[Stage]:
    """Return the stage that trains the student, if one is wanted."""
    if settings.student is None:
        return []

    def train() -> None:
        train_student(settings, index, find_weights(settings)[0], Path(settings.out))

    return [Stage("student", (), (student_path(settings),), train, "Training the student on all frames")]


def score_student(settings: Settings, index: ClipIndex) -> dict[str, Any]:
    """Score the student alone on held-out frames.

    Returns:
        ``{"student": {"miou": percent, "ece": calibration error in [0, 1]}}``, None for scores that are undefined;
        empty without a student or without held-out frames.
    """
    if settings.student is None or not any(clip.held_out for clip in index.clips):
        return {}
    data, module = SegmentationData.over(index, workers=settings.run.workers), student_path(settings)
    with quiet_lightning():
        [scores] = pl.Trainer(**plain_trainer()).test(load_module(SegmentationModule, module), data, verbose=False)
    # Both are undefined where no held-out label has a class.
    found = {key: scale * scores.get(f"test/{key}", math.nan) for key, scale in (("miou", 100), ("ece", 1))}
    return {"student": {key: None if math.isnan(value) else round(value, 6) for key, value in found.items()}}
