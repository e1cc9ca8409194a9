"""What an autolabel run is asked to do; loads no torch, as the command line is made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wrp.errors import WrpError
from wrp.options import NetworkArgs, SelectArgs, read_shard

# Narrower than smp's defaults, in whose pyramid most of a step on a CPU goes.
SLIM_FPN = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
STUDENTS = ("plain", "cisc-r", "three-stage", "st++")
METHODS = ("motion", "semantic", "inpaint", "refine")


def _teacher_network() -> NetworkArgs:
    return NetworkArgs(encoder_name="tu-regnetx_002", options=dict(SLIM_FPN), scale=0.5)


@dataclass(frozen=True)
class TeacherArgs:
    """How the teacher is trained; defaults are for two CPU cores, see experiments/README.md.

    Attributes:
        weights: Encoder weights: auto (ImageNet's if they can be had, else from scratch), none, or a name.
        network: The network.
        losses: Weight of each loss.
        propagated_ratio: Ratio of its crops that come from the clips' frames, labelled by motion alone. It makes the
            teacher better and the refiner worse: the teacher's errors are then those of motion.
        confidence: Pixels of those frames that are less confident do not count.
        lr: Learning rate at the start.
        steps: Training steps.
        crop: Height and width of its crops in pixels.
        batch: Crops per step.
        folds: Further teachers, each without a share of the labels, for the refiner to learn from; 0: none.
    """

    weights: str = "auto"
    network: NetworkArgs = field(default_factory=_teacher_network)
    losses: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0, "dice": 1.0})
    propagated_ratio: float = 0.0
    confidence: float = 0.7
    lr: float = 5e-3
    steps: int = 2000
    crop: tuple[int, int] = (256, 448)
    batch: int = 8
    folds: int = 0


@dataclass(frozen=True)
class RefinerTrainingArgs:
    """How the refiner is trained.

    Attributes:
        steps: Training steps.
        crop: Height and width of its crops in pixels.
        batch: Crops per step.
    """

    steps: int = 1200
    crop: tuple[int, int] = (192, 256)
    batch: int = 6


@dataclass(frozen=True)
class RunArgs:
    """How the work is done.

    Attributes:
        on_error: What a clip with a broken file does: stop the run before it begins, or skip: it is left out, which
            makes the exit code 3.
        flow_cache: Folder for optical flow, to be shared between runs; None: one in ``out``, deleted in the end.
        min_confidence: Labels that are less confident are written as 255.
        shard: Label one of N shares of the intervals, I/N, for N jobs with one ``out``; networks and calibration have
            to be there: run once with a limit of 0 before.
        limit: Label at most so many intervals this time; 0: train only.
        seed: Seed of everything that is random.
        workers: Loader processes.
    """

    on_error: str = "stop"
    flow_cache: str | None = None
    min_confidence: float = 0.0
    shard: str | None = None
    limit: int | None = None
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Settings:
    """Settings of an autolabel run.

    Attributes:
        root: Folder with frames/, labels/ and classes.yaml, or a data set (`wrp data layouts`), looked for below
            WRP_DATA as well.
        out: Folder to write to.
        layout: auto or the name of a layout, see `wrp data layouts`.
        split: Split of the data set; None: the layout's default.
        select: Which clips are labelled, and which labels are kept; the others are scored.
        methods: Propagation methods, with commas; the last one is the result. Also copy, vote and vote-once; any but
            semantic as METHOD:previous and METHOD:nearest.
        teacher: Checkpoint of a SegmentationModule instead of training one.
        refiner: Checkpoint of a RefinementModule instead of training one.
        train_teacher: How the teacher is trained.
        train_refiner: How the refiner is trained.
        student: Train a network on all frames in the end; a propagated pixel counts by its confidence (plain), by its
            consistency with the keyframes (cisc-r), for a second head alone (three-stage), or by its confidence, the
            more reliable frames first (st++). None: no such network.
        run: How the work is done.
    """

    root: str
    out: str
    layout: str = "auto"
    split: str | None = None
    select: SelectArgs = SelectArgs()
    methods: str | list[str] = METHODS  # type: ignore[assignment]  # a tuple is as good
    teacher: str | None = None
    refiner: str | None = None
    train_teacher: TeacherArgs = TeacherArgs()
    train_refiner: RefinerTrainingArgs = RefinerTrainingArgs()
    student: str | None = None
    run: RunArgs = RunArgs()

    def __post_init__(self) -> None:
        """Refuse settings that cannot work before anything is done."""
        object.__setattr__(self, "methods", split_names(self.methods))
        teacher, refiner, run = self.train_teacher, self.train_refiner, self.run
        least = {"teacher-steps": teacher.steps, "refiner-steps": refiner.steps}
        least |= {"train_teacher.batch": teacher.batch, "train_refiner.batch": refiner.batch}
        for name, value in least.items():
            if value < 1:
                raise WrpError(f"--{name} must be at least 1, got {value}")
        ratios = {"min-confidence": run.min_confidence, "propagated-ratio": teacher.propagated_ratio}
        for name, ratio in (ratios | {"train_teacher.confidence": teacher.confidence}).items():
            if not 0 <= ratio <= 1:
                raise WrpError(f"--{name} must be in 0 … 1, got {ratio}")
        if teacher.network.encoder_weights is not None:
            raise WrpError("train_teacher.network.encoder_weights is not looked at: give --weights")
        if teacher.folds < 0 or teacher.folds == 1:
            raise WrpError(f"--teacher-folds must be 0 or at least 2, got {teacher.folds}")
        if self.student not in (None, *STUDENTS):
            raise WrpError(f"--student must be one of {', '.join(STUDENTS)}, got {self.student!r}")
        if self.student == "st++" and teacher.steps < 3:
            raise WrpError(f"--student st++ needs --teacher-steps of at least 3, got {teacher.steps}")
        if self.student == "three-stage" and teacher.batch < 2:
            raise WrpError(f"--student three-stage needs a train_teacher.batch of at least 2, got {teacher.batch}")
        if run.on_error not in ("stop", "skip"):
            raise WrpError(f"--on-error must be stop or skip, got {run.on_error!r}")
        if run.shard is not None:
            read_shard(run.shard, "--shard")
        for name, number in (("limit", run.limit), ("workers", run.workers)):
            if number is not None and number < 0:
                raise WrpError(f"--{name} must be at least 0, got {number}")

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON would return them, but for where they are written to."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        del settings["out"]
        return settings


SHORT = {
    "clips": "select.clips",
    "label-every": "select.label_every",
    "label-offset": "select.label_offset",
    "keyframes": "select.keyframes",
    "weights": "train_teacher.weights",
    "teacher-steps": "train_teacher.steps",
    "propagated-ratio": "train_teacher.propagated_ratio",
    "teacher-folds": "train_teacher.folds",
    "refiner-steps": "train_refiner.steps",
    "on-error": "run.on_error",
    "flow-cache": "run.flow_cache",
    "min-confidence": "run.min_confidence",
    "shard": "run.shard",
    "limit": "run.limit",
    "seed": "run.seed",
    "workers": "run.workers",
}
"""The short flags of the command line, and the settings that they stand for."""


def split_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """Names from a comma-separated list."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
