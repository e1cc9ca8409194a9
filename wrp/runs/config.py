"""Settings of an autolabel run; loads no torch, because the command line is built from them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wrp.errors import WrpError, check_choice
from wrp.flow.presets import check_flow
from wrp.io.plugins import plugin_names
from wrp.options import (
    MAX_COUNT,
    MAX_PROCESSES,
    MAX_SEED,
    OWN_METHODS,
    InferenceArgs,
    NetworkArgs,
    SelectArgs,
    check_crops,
    check_losses,
    check_range,
    flat,
    read_shard,
)

# Narrower than the defaults of segmentation-models-pytorch: on a CPU, most of a step is spent in this decoder.
SLIM_FPN = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
STUDENTS = ("plain", "cisc-r", "three-stage", "st++")
METHODS = ("motion", "semantic", "inpaint", "refine")


AUTO = "auto"
"""Name of the encoder of a recipe, and of the encoder weights that are at hand."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from pretrained encoder weights, or from scratch.

    Attributes:
        network: The network.
        crop: Height and width of the training crops in pixels.
        lr: Learning rate at the start.
        steps: Training steps.

    Example:
        >>> RECIPES[True].network.encoder_name, RECIPES[False].network.encoder_name
        ('tu-tf_efficientnet_lite0', 'tu-regnetx_002')
    """

    network: NetworkArgs
    crop: tuple[int, int]
    lr: float
    steps: int


def _network(encoder: str, scale: float) -> NetworkArgs:
    return NetworkArgs(encoder_name=encoder, options=dict(SLIM_FPN), scale=scale)


RECIPES = {
    True: Recipe(_network("tu-tf_efficientnet_lite0", 0.75), (192, 320), 1e-3, 1800),
    False: Recipe(_network("tu-regnetx_002", 0.5), (256, 448), 5e-3, 2000),
}
"""The recipe with pretrained encoder weights, and that without; chosen by experiments/networks/recipes.py."""


@dataclass(frozen=True)
class TeacherArgs:
    """How the teacher is trained; the defaults are chosen for two CPU cores, see experiments/README.md.

    Attributes:
        weights: Encoder weights: a file (.pth, .safetensors), auto (ImageNet's, of an installed package or downloaded
            within ten seconds, otherwise none), none (train from scratch), or a name.
        network: The network. The encoder auto is EfficientNet-Lite0 with pretrained weights and RegNetX-002 from
            scratch, the scale 0 is 0.75 with pretrained weights and 0.5 from scratch.
        inference: How its probabilities are computed at unlabelled frames and for the refiner's examples; those of
            the mirror image are always averaged in.
        losses: Weight of each loss.
        propagated_ratio: Ratio of the training crops that come from frames without a label, labelled by motion alone.
            It makes the teacher better, but the refiner worse: the teacher then makes the same errors as motion.
        confidence: Pixels of those frames whose confidence is below this value are ignored, 0 … 1.
        lr: Learning rate at the start; None: 0.001 with pretrained weights, 0.005 from scratch.
        steps: Training steps; None: 1800 with pretrained weights, 2000 from scratch.
        crop: Height and width of the training crops in pixels; None: 192×320 with pretrained weights, 256×448 from
            scratch. Crops are never larger than the frames, whose sides are rounded up to a multiple of 32.
        batch: Crops per step.
        folds: Number of further teachers from whose predictions the refiner learns, each trained without one part of
            the labels; 0: none, otherwise at least 2.

    Example:
        >>> recipe = TeacherArgs(steps=400).recipe(pretrained=True)
        >>> recipe.crop, recipe.lr, recipe.steps
        ((192, 320), 0.001, 400)
    """

    weights: str = "auto"
    network: NetworkArgs = field(default_factory=lambda: _network(AUTO, 0.0))
    inference: InferenceArgs = field(default_factory=lambda: InferenceArgs(scales=[1.0, 1.5]))
    losses: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0, "dice": 1.0})
    propagated_ratio: float = 0.0
    confidence: float = 0.7
    lr: float | None = None
    steps: int | None = None
    crop: tuple[int, int] | None = None
    batch: int = 8
    folds: int = 0

    def recipe(self, pretrained: bool) -> Recipe:
        """Return how the teacher is trained, what these arguments leave open as in :data:`RECIPES`.

        Args:
            pretrained: Whether the encoder starts from pretrained weights.
        """
        chosen, network = RECIPES[pretrained], self.network
        network = replace(
            network,
            encoder_name=chosen.network.encoder_name if network.encoder_name == AUTO else network.encoder_name,
            scale=network.scale or chosen.network.scale,
        )
        return Recipe(
            network,
            self.crop or chosen.crop,
            chosen.lr if self.lr is None else self.lr,
            chosen.steps if self.steps is None else self.steps,
        )


@dataclass(frozen=True)
class RefinerTrainingArgs:
    """How the refiner is trained.

    Attributes:
        steps: Training steps.
        crop: Height and width of the training crops in pixels.
        batch: Crops per step.

    Example:
        >>> RefinerTrainingArgs(steps=250)
        RefinerTrainingArgs(steps=250, crop=(192, 256), batch=6)
    """

    steps: int = 600
    crop: tuple[int, int] = (192, 256)
    batch: int = 6


@dataclass(frozen=True)
class RunArgs:
    """How the run is carried out.

    Attributes:
        on_error: What to do about a clip with a damaged file: stop or skip (leave the clip out; the exit code is then
            3).
        flow: Optical flow: dis-best (the default), dis, dis-fast, raft-large, raft-small, stored, the name of an entry
            point in wrp.flow, or the path of a class, see `wrp.flow.presets`.
        flow_args: Arguments of that flow, such as --flow_args.weights FILE for RAFT.
        flow_cache: Folder that keeps optical flow for other runs; None: a folder in ``out`` that is deleted at the end.
        min_confidence: Pixels whose confidence is below this value are written as 255 (unlabelled), 0 … 1.
        shard: Label only part I of N of the intervals, written I/N, so that N jobs can share one ``out``. Networks and
            calibration must exist already: run the same command once with a limit of 0 first.
        limit: Label at most this many intervals in this call; 0: only train and calibrate.
        continue_from: Folder of a finished run with the same settings: what its keyframes and networks have in common
            with this run's is taken from there, and only the rest is made, see :mod:`wrp.runs.continuing`.
        continue_steps: Steps for which teacher and refiner of that run are trained on; 0, the default: they are used as
            they are, and so is its calibration.
        seed: Seed of all random numbers.
        workers: Number of processes that load data for each process of the run; 0: it loads them itself. None: 0 on the
            CPU, where flow keeps all cores busy, and 4 on a GPU, which would wait for frames.
        trainer: Arguments of Lightning's Trainer for all stages, such as --trainer.devices 8 --trainer.precision
            bf16-mixed --trainer.num_nodes 2 --trainer.logger CSVLogger; one device by default.

    Example:
        >>> RunArgs(shard="1/4", seed=3).shard
        '1/4'
    """

    on_error: str = "stop"
    flow: str = "dis-best"
    flow_args: dict[str, Any] = field(default_factory=dict)
    flow_cache: str | None = None
    min_confidence: float = 0.0
    shard: str | None = None
    limit: int | None = None
    continue_from: str | None = None
    continue_steps: int | None = None
    seed: int = 0
    workers: int | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Settings of an autolabel run.

    Attributes:
        root: A video or a folder of its frames, whose labels --labels names; a folder with frames/, labels/ and
            classes.yaml; or a data set in one of the layouts that `wrp data layouts` lists. Also searched for below
            WRP_DATA.
        out: Folder to write to.
        layout: auto or the name of a layout, see `wrp data layouts`.
        split: Split of the data set; None: the layout's default.
        select: Which clips are labelled, and which of their labels are used; the others are held out for scoring.
        methods: Propagation methods, comma-separated; the last one makes the final labels. copy, vote and vote-once
            are available, too; all but semantic also exist as METHOD:previous and METHOD:nearest.
        teacher: Checkpoint of a SegmentationModule to use instead of training a teacher.
        refiner: Checkpoint of a RefinementModule to use instead of training a refiner.
        train_teacher: How the teacher is trained.
        train_refiner: How the refiner is trained.
        student: Finally train a network on all frames. Propagated pixels are weighted by their confidence (plain), by
            their consistency with the keyframes (cisc-r), by their confidence but train a second head only
            (three-stage), or by their confidence with the more reliable frames first (st++). None: no such network.
        run: How the run is carried out.

    Raises:
        WrpError: If a value is out of range, or settings contradict each other.

    Example:
        >>> settings = Settings("clips", "out", methods="copy, motion", run=RunArgs(seed=3))
        >>> settings.methods
        ('copy', 'motion')
        >>> Settings("clips", "out", train_teacher=TeacherArgs(folds=1))
        Traceback (most recent call last):
        wrp.errors.WrpError: --teacher-folds must be 0 or at least 2, got 1
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
    run: RunArgs = field(default_factory=RunArgs)

    def __post_init__(self) -> None:
        """Split the names of the methods and refuse settings that cannot work."""
        object.__setattr__(self, "methods", split_names(self.methods))
        for method in self.methods:
            known = [*OWN_METHODS, *plugin_names("wrp.methods")]
            check_choice("method", method.partition(":")[0], known, ", as is or with :keyframes")
        teacher, refiner, run = self.train_teacher, self.train_refiner, self.run
        counts = {"teacher-steps": teacher.steps, "refiner-steps": refiner.steps}
        counts |= {"train_teacher.batch": teacher.batch, "train_refiner.batch": refiner.batch}
        for name, count in counts.items():
            check_range(f"--{name}", count, 1, MAX_COUNT)
        ratios = {"min-confidence": run.min_confidence, "propagated-ratio": teacher.propagated_ratio}
        for name, ratio in (ratios | {"train_teacher.confidence": teacher.confidence}).items():
            check_range(f"--{name}", ratio, 0, 1)
        if teacher.network.encoder_weights is not None:
            raise WrpError("train_teacher.network.encoder_weights has no effect: use --weights instead")
        if teacher.folds < 0 or teacher.folds == 1:
            raise WrpError(f"--teacher-folds must be 0 or at least 2, got {teacher.folds}")
        if self.student is not None:
            check_choice("student", self.student, STUDENTS)
        if self.student == "st++" and teacher.steps is not None and teacher.steps < 3:
            raise WrpError(f"--student st++ needs --teacher-steps of at least 3, got {teacher.steps}")
        if self.student == "three-stage" and teacher.batch < 2:
            raise WrpError(f"--student three-stage needs a train_teacher.batch of at least 2, got {teacher.batch}")
        check_choice("value of --on-error", run.on_error, ("stop", "skip"))
        check_flow(run.flow)
        if run.shard is not None:
            read_shard(run.shard, "--shard")
        check_range("--limit", run.limit, 0, MAX_COUNT)
        check_range("--continue-steps", run.continue_steps, 0, MAX_COUNT)
        check_range("--workers", run.workers, 0, MAX_PROCESSES)
        check_range("--seed", run.seed, 0, MAX_SEED)
        check_range("--teacher-folds", teacher.folds, 0, 1000)
        check_range("--train_teacher.lr", teacher.lr, 0, 1000)
        check_losses(teacher.losses)
        for pretrained in (True, False):  # what is left open depends on the weights that will be found
            check_crops("--train_teacher.crop", teacher.recipe(pretrained).crop, teacher.batch)
        check_crops("--train_refiner.crop", refiner.crop, refiner.batch)
        for name, text in flat(asdict(self)):
            if isinstance(text, str) and "\0" in text:
                raise WrpError(f"{name} must be a name without a null character, got {text!r}")

    def as_json(self) -> dict[str, Any]:
        """Return the settings as they are read back from JSON (tuples become lists), without ``out``."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        del settings["out"]
        return settings


SHORT = {
    "clips": "select.clips",
    "label-every": "select.label_every",
    "label-offset": "select.label_offset",
    "keyframes": "select.keyframes",
    "labels": "select.labels",
    "frames": "select.frames",
    "never": "select.never",
    "weights": "train_teacher.weights",
    "teacher-steps": "train_teacher.steps",
    "propagated-ratio": "train_teacher.propagated_ratio",
    "teacher-folds": "train_teacher.folds",
    "refiner-steps": "train_refiner.steps",
    "on-error": "run.on_error",
    "flow": "run.flow",
    "flow_args": "run.flow_args",
    "flow-cache": "run.flow_cache",
    "min-confidence": "run.min_confidence",
    "shard": "run.shard",
    "limit": "run.limit",
    "continue": "run.continue_from",
    "continue-steps": "run.continue_steps",
    "seed": "run.seed",
    "workers": "run.workers",
    "trainer": "run.trainer",
}
"""Short flags of the command line and the settings that they set."""


def in_flags(setting: str, before: Any, now: Any, flags: Mapping[str, str] = SHORT) -> str:
    r"""Say how a setting of a run differs from that of a command, in the words of the command line.

    Args:
        setting: Its dotted name.
        before: Its value in the run; None: it was not given.
        now: Its value in the command.
        flags: Flags of the command, and the settings that they set; other settings are flags by their own names.

    Example:
        >>> in_flags("select.label_every", 2, None)
        'with --label-every 2, this command has none'
        >>> in_flags("methods", ["motion"], ["motion", "inpaint"])
        'with --methods motion, this command has --methods motion,inpaint'
        >>> in_flags("run.trainer", {}, {"precision": 16})
        'without --trainer, this command has --trainer \'{"precision": 16}\''
    """
    short = next((flag for flag, known in flags.items() if known == setting), setting)
    flag = setting.upper() if setting in ("root", "system") else f"--{short}"
    first, second = (f"{flag} {_as_given(value)}" if value not in (None, {}) else None for value in (before, now))
    return f"{f'with {first}' if first else f'without {flag}'}, this command has {second or 'none'}"


def _as_given(value: Any) -> str:
    """Write a value as on the command line."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        value = ",".join(value)
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def split_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """Split a comma-separated list of names; empty names are dropped.

    Example:
        >>> split_names("copy, motion")
        ('copy', 'motion')
    """
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
