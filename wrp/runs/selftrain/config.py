"""Settings of a run of a semi-supervised system; loads no torch, as mistakes in them are told before it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wrp.errors import check_choice
from wrp.options import MAX_COUNT, MAX_PROCESSES, MAX_SEED, SCALES, NetworkArgs, SamplingArgs, check_range, flat
from wrp.runs.config import SLIM_FPN
from wrp.runs.config import in_flags as told

SYSTEM_NAMES = ("supervised", "st", "st++", "cisc-r", "three-stage", "unimatch", "unimatch-v2")


@dataclass(frozen=True)
class Lists:
    """Paths of three files that list image names.

    Attributes:
        labelled: Images whose labels are used for training.
        unlabelled: Images that are used without labels.
        val: Images to score on.

    Example:
        >>> Lists(labelled="labelled.txt", unlabelled="unlabelled.txt", val="val.txt").val
        'val.txt'
    """

    labelled: str
    unlabelled: str
    val: str


@dataclass(frozen=True)
class SelfTraining:
    """Settings of a run of a semi-supervised system.

    Attributes:
        system: One of :data:`SYSTEM_NAMES`.
        root: Folder of the data set.
        lists: Which images have labels, which have none, and which are scored.
        out: Folder to write to.
        layout: See :class:`~wrp.data.semisupervised.SemiSupervisedData`.
        supervised: Checkpoint of the first stage's network to use instead of training it.
        steps: Training steps of each stage, at least 3.
        sampling: How labelled crops are drawn; as many unlabelled ones are drawn with them.
        network: The network.
        lr: Learning rate at the start. An encoder that starts from pretrained weights wants a lower one than the
            default.
        encoder_lr: Learning rate of the encoder as a ratio of ``lr``; 0 freezes it.
        seed: Seed of all random numbers.
        workers: Number of loader processes of each process; 0: it loads data itself. None: 0 on the CPU, 4 on a GPU.
        trainer: Arguments of Lightning's Trainer for all stages; one device by default. The batches are those of all
            devices together.

    Raises:
        WrpError: If the system is unknown or a number is out of range.

    Example:
        >>> settings = SelfTraining("unimatch", "voc", Lists("labelled.txt", "unlabelled.txt", "val.txt"), "out")
        >>> settings.steps, settings.sampling.crop_size
        (2000, (192, 288))
    """

    system: str
    root: str
    lists: Lists
    out: str
    layout: str = "folder"
    supervised: str | None = None
    steps: int = 2000
    sampling: SamplingArgs = SamplingArgs((192, 288), 4)
    network: NetworkArgs = NetworkArgs(encoder_name="tu-regnetx_002", options=SLIM_FPN)
    lr: float = 5e-3
    encoder_lr: float = 1.0
    seed: int = 0
    workers: int | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an unknown system and numbers that are out of range."""
        check_choice("system", self.system, SYSTEM_NAMES)
        check_range("--steps", self.steps, 3, MAX_COUNT)
        check_range("--workers", self.workers, 0, MAX_PROCESSES)
        check_range("--seed", self.seed, 0, MAX_SEED)
        check_range("--scale", self.network.scale, *SCALES)  # 0 is none here, where nothing is left open
        check_range("--lr", self.lr, 1e-9, 1000)
        check_range("--encoder-lr", self.encoder_lr, 0, 1000)


FLAGS = {
    "labelled": "lists.labelled",
    "unlabelled": "lists.unlabelled",
    "val": "lists.val",
    "crop-size": "sampling.crop_size",
    "batch-size": "sampling.batch_size",
    "architecture": "network.arch",
    "encoder": "network.encoder_name",
    "weights": "network.encoder_weights",
    "scale": "network.scale",
    "encoder-lr": "encoder_lr",
}
"""Flags of the command line and the settings that they set, where these have other names."""


def in_flags(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say how the settings of a run differ from those of a command, in the words of the command line.

    Args:
        before: The settings of the run, as recorded.
        now: Those of the command; at least one differs.

    Example:
        >>> in_flags({"system": "st", "seed": 0}, {"system": "st", "seed": 1})
        'with --seed 0, this command has --seed 1'
    """
    theirs, mine = dict(flat(_without_default(before))), dict(flat(_without_default(now)))
    setting = next(name for name in {**mine, **theirs} if theirs.get(name) != mine.get(name))
    return told(setting, theirs.get(setting), mine.get(setting), FLAGS)


def _without_default(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose network names no architecture if none was given: its options are narrower then."""
    network, default = settings.get("network"), SelfTraining.network
    if isinstance(network, dict) and (network.get("arch"), network.get("options")) == (default.arch, default.options):
        return {**settings, "network": network | {"arch": None}}
    return dict(settings)
