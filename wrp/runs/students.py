"""Train the student of a run: a network that learns from all frames, in one of four ways."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wrp.data.propagated import RELIABLE, PropagatedLabels
from wrp.runs.config import Settings
from wrp.runs.job import Job
from wrp.runs.rectify import DRIFT, WEIGHTS, rectify
from wrp.runs.reliability import rank
from wrp.runs.training import thirds_of, train_segmenter
from wrp.segmentation.module import SegmentationModule
from wrp.selftraining.three_stage import ThreeStageModule

logger = logging.getLogger("wrp")


@dataclass(frozen=True)
class Way:
    """How a student learns from propagated labels.

    Attributes:
        labels: Arguments of :class:`~wrp.data.propagated.PropagatedLabels`.
        kind: Class of the module.
        epochs: Epochs into which its steps are divided.

    Example:
        >>> WAYS["st++"].labels, WAYS["st++"].epochs
        ({'reliable_first': 1}, 2)
    """

    labels: dict[str, Any] = field(default_factory=dict)
    kind: type[SegmentationModule] = field(default_factory=lambda: SegmentationModule)
    epochs: int = 1


WAYS = {
    # every pixel is weighted by its confidence
    "plain": Way(),
    # every pixel is weighted by its consistency with the keyframes (CISC-R)
    "cisc-r": Way({"weights": WEIGHTS}),
    # weighted by confidence, for a second head that is discarded after training (Three-Stage)
    "three-stage": Way({"apart": True}, ThreeStageModule),
    # as plain, but the first half of the training uses the reliable frames only (ST++)
    "st++": Way({"reliable_first": 1}, epochs=2),
}


def student_path(settings: Settings) -> Path:
    """Return the checkpoint of the student of a run.

    Example:
        >>> student_path(Settings("clips", "out", student="cisc-r")).name
        'student-cisc-r.ckpt'
    """
    name = "student" if settings.student == "plain" else f"student-{settings.student}"
    return Path(settings.out, f"{name}.ckpt")


def train_student(job: Job, weights: str | None) -> None:
    """Train a network like the teacher on labelled and propagated frames, and save it.

    What the way of training needs besides, consistency weights or a ranking of the frames, is made first.

    Args:
        job: The run; ``settings.student`` names the way of training.
        weights: Encoder weights to start from; None: from scratch.
    """
    settings, out = job.settings, job.out
    assert settings.student is not None
    way = WAYS[settings.student]
    if settings.student == "cisc-r" and not job.processes.first((out / DRIFT).is_file):
        rectify(job.index, out, settings.teacher or str(out / "teacher.ckpt"), job.processes)
    if settings.student == "st++" and not job.processes.first((out / RELIABLE).is_file):
        ranker = out / "ranker.ckpt"
        if not job.processes.first(ranker.is_file):
            logger.info("Training a network on the labelled frames only, to rank the propagated ones")
            train_segmenter(job, weights, None, ranker, thirds=True)
        rank(job.index, out, [*thirds_of(ranker), ranker], job.processes, job.processes.loaders(settings.run.workers))
    labels = PropagatedLabels(str(out), **way.labels)
    train_segmenter(job, weights, labels, student_path(settings), way.kind, way.epochs)
