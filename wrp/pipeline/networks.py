"""The networks of an autolabel run: trained where they are not there yet, each once."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.callbacks.parts import join_manifest, written_parts
from wrp.callbacks.writer import LabelWriter
from wrp.data.datamodule import VideoDataModule
from wrp.data.items import IntervalItems, WindowItems
from wrp.errors import DataError, WrpError
from wrp.flow.cache import FlowCache
from wrp.modules.loading import load_module, read_checkpoint
from wrp.modules.segmentation import SegmentationModule
from wrp.opening import read_json
from wrp.outputs import TEMPORARY
from wrp.pipeline.settings import Settings
from wrp.pipeline.students import student_path, train_student
from wrp.pipeline.training import (
    find_weights,
    plain_trainer,
    quiet_lightning,
    train_refiner,
    train_teacher,
)
from wrp.propagation.module import PropagationModule
from wrp.writing import write_json

logger = logging.getLogger("wrp")


class Stopwatch:
    """Seconds of each step, kept in a file so that a resumed run knows those of the steps it skips."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        self._read()

    def _read(self) -> None:
        if self.path.is_file():
            try:
                self.seconds = read_json(self.path, "the times of the steps so far are lost")
            except DataError as error:
                logger.warning("%s", error)

    def add(self, step: str, seconds: float) -> None:
        """Add to the time of a step, by whichever job."""
        self._read()
        self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 2)
        write_json(self.path, self.seconds)


def networks(
    settings: Settings, data: VideoDataModule, flow: FlowCache, watch: Stopwatch, out: Path
) -> tuple[str | None, str | None]:
    """Checkpoints of the networks that the methods need, trained if they are not there."""
    teacher = refiner = None
    if settings.needs_teacher:
        teacher = settings.teacher or str(out / "teacher.ckpt")
        if settings.teacher is None and not _is_trained(Path(teacher)):
            started = time.perf_counter()
            weights, problem = find_weights(settings)
            if problem is not None:
                logger.warning(
                    "The teacher starts from scratch, ImageNet weights cannot be downloaded (%s); --weights none "
                    "does not ask for them",
                    problem,
                )
            write_json(out / "weights.json", {"encoder": weights})
            propagated = label_by_motion(data, flow, out / TEMPORARY / "motion") if settings.teacher_share else None
            logger.info("Training the teacher on %d labelled frames", len(data.training_frames()))
            train_teacher(settings, data, weights, propagated, Path(teacher))
            watch.add("teacher", time.perf_counter() - started)
    if settings.needs_refiner:
        refiner = settings.refiner or str(out / "refiner.ckpt")
        if settings.refiner is None and not _is_trained(Path(refiner)):
            started = time.perf_counter()
            assert teacher is not None
            folds = fold_teachers(settings, data, out)
            windows = WindowItems(data.index.clips, data.label_map)
            logger.info("Training the refiner on %d labelled frames", len(windows))
            train_refiner(settings, data, Path(teacher), folds, flow, Path(refiner))
            watch.add("refiner", time.perf_counter() - started)
    return teacher, refiner


def _is_trained(path: Path) -> bool:
    """Whether a network of this run is there; one that is damaged stops the run, as what came of it would be lost."""
    if not path.is_file():
        return False
    try:
        read_checkpoint(path, mmap=True)
    except WrpError as error:
        raise WrpError(f"{error}; put a copy in its place, or delete it to have it trained anew") from error
    return True


def fold_teachers(settings: Settings, data: VideoDataModule, out: Path) -> list[Path]:
    """Teachers that have each seen all labels but a share, trained where they are not there."""
    folds = settings.teacher_folds
    paths = [out / f"teacher-{number}-of-{folds}.ckpt" for number in range(1, folds + 1)]
    # Asked for once: where they cannot be had, that takes ten seconds.
    weights = None if all(path.is_file() for path in paths) else find_weights(settings)[0]
    for number, path in enumerate(paths):
        if not _is_trained(path):
            data.leave_out = (number, folds)
            logger.info("Training a teacher for the labels of fold %d of %d", number + 1, folds)
            train_teacher(settings, data, weights, None, path)
    data.leave_out = None
    return paths


def label_by_motion(data: VideoDataModule, flow: FlowCache, out: Path) -> Path | None:
    """Label the clips by motion alone, for the teacher to learn from; None where every frame has a label."""
    if all(len(clip.anchors) == len(clip.frames) for clip in data.index.clips):
        return None
    data.serve, data.done, shard = "intervals", written_parts(out), data.shard
    data.shard = (0, 1)
    if len(IntervalItems(data.index.clips, data.label_map, done=data.done)):
        logger.info("Labelling frames by motion for the teacher to learn from")
        with quiet_lightning():
            trainer = pl.Trainer(**plain_trainer(LabelWriter(str(out))))
            trainer.predict(PropagationModule(data.num_classes, flow=flow), data, return_predictions=False)
    join_manifest(out)
    data.done, data.shard = frozenset(), shard
    return out


def student(settings: Settings, data: VideoDataModule, watch: Stopwatch, out: Path) -> dict[str, Any]:
    """Train the student where it is not there, and score it on hidden frames where there are any, by itself."""
    path = student_path(settings)
    if not _is_trained(path):
        started = time.perf_counter()
        weights, _ = find_weights(settings)
        logger.info("Training the student on all frames")
        train_student(settings, data, weights, out)
        watch.add("student", time.perf_counter() - started)
    if not any(clip.hidden for clip in data.index.clips):
        return {}
    data.serve = "frames"
    with quiet_lightning():
        [scores] = pl.Trainer(**plain_trainer()).test(load_module(SegmentationModule, path), data, verbose=False)
    # Neither is a number where no hidden label has a class.
    found = {key: scale * scores.get(f"test/{key}", math.nan) for key, scale in (("miou", 100), ("ece", 1))}
    return {"student": {key: None if math.isnan(value) else round(value, 6) for key, value in found.items()}}
