"""Groups of arguments, shared by modules, data modules and runs. This module does not load torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from wrp.errors import DataError, WrpError, check_choice

Options = TypeVar("Options")

OWN_METHODS = ("copy", "motion", "vote-once", "vote", "semantic", "inpaint", "refine")
"""Names of the package's own propagation methods; what they are is in :mod:`wrp.propagation.methods`."""

PICKS = ("even", "diverse")
"""How `wrp init` picks frames within the scenes of a clip, see :func:`wrp.data.keyframes.pick_keyframes`."""

MAX_SIDE = 2**15 - 2
"""Greatest height and width, in pixels, of crops and windows: OpenCV counts them with 16 bits."""

MAX_BATCH_PIXELS = 2**31
"""Most pixels of a batch of crops."""

MAX_COUNT = 2**31 - 1
"""Most steps, examples and other things that are counted."""

MAX_PROCESSES = 256
"""Most devices, and most loader processes of each: each is a program of its own."""

MAX_SEED = 2**32 - 1
"""Greatest seed that all random generators take."""

MAX_SHARDS = 10_000
"""Most jobs that share a run."""

SCALES = (0.01, 16)
"""Least and greatest magnification of an image."""


def check_range(name: str, value: float | Sequence[float] | None, least: float, most: float) -> None:
    """Raise WrpError if a number, or one of several, is outside of a range, or is not a number (NaN); None is accepted.

    Example:
        >>> check_range("--seed", 3, 0, MAX_SEED)
        >>> check_range("--seed", -1, 0, MAX_SEED)
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: --seed must be in 0 … 4294967295, got -1
    """
    numbers = value if isinstance(value, Sequence) else () if value is None else (value,)
    if not all(least <= number <= most for number in numbers):
        raise WrpError(f"{name} must be in {least} … {most}, got {value}")


def check_losses(losses: Mapping[str, float]) -> None:
    """Raise WrpError if the weight of a loss is negative or not finite, or all of them are 0.

    Example:
        >>> check_losses({"cross_entropy": 1.0, "dice": 0.5})
    """
    for name, weight in losses.items():
        check_range(f"losses.{name}", weight, 0, 1e6)
    if not any(losses.values()):
        raise WrpError(f"losses must have a weight above 0, got {dict(losses)}")


@dataclass(frozen=True)
class SelectArgs:
    """Which clips and frames are used, and which of their labels are keyframes. All other labels are held out.

    Attributes:
        clips: Names of the clips, as a list or separated by commas; None: all.
        label_every: Keep every K-th label and hold out the others; None: keep all.
        label_offset: Index of the first label that is kept.
        keyframes: A file that lists the labels to keep, one ``<clip>/<frame>`` per line, instead of every K-th.
        labels: Folder of the labels of a video or of a folder of frames, and of their classes.yaml; None: the labels
            are in the folder of the data set.
        frames: Frames of each clip, START:STOP:STEP as in Python, such as 100:400:2, counted from 0; None: all.
        never: Picture of what is never labelled in any frame, such as a car's hood or a time stamp: all that is not
            black in it. These pixels are 255 with confidence 0, and count neither in training nor in scores.

    Raises:
        WrpError: If ``frames`` has another form.

    Example:
        >>> SelectArgs(clips="street, park", label_every=5).clips
        ['street', 'park']
    """

    clips: list[str] | str | None = None
    label_every: int | None = None
    label_offset: int = 0
    keyframes: str | None = None
    labels: str | None = None
    frames: str | None = None
    never: str | None = None

    def __post_init__(self) -> None:
        """Split a string of names, and refuse frames that cannot be chosen."""
        object.__setattr__(self, "clips", _names(self.clips))
        if self.frames is not None:
            read_slice(self.frames)


@dataclass(frozen=True)
class ValArgs:
    """Which labelled frames are used for validation and test instead of training.

    At most one of ``split``, ``clips``, ``keyframes`` and ``ratio`` may be given. If none is given, validation uses the
    labels that :class:`SelectArgs` holds out.

    Attributes:
        split: Name of another split of the data set.
        clips: Names of clips, as a list or separated by commas.
        keyframes: A file that lists frames, one ``<clip>/<frame>`` per line.
        ratio: Ratio of the labelled frames, in (0, 1), drawn at random.
        seed: Seed of that draw.
        overlap: Whether training and validation may share labels. The scores then say little about other frames. If no
            label is held out at all, validation uses the training labels.

    Raises:
        WrpError: If more than one of the four is given, or ``ratio`` is not in (0, 1).

    Example:
        >>> ValArgs(ratio=0.2, seed=1).ratio
        0.2
        >>> ValArgs(split="val", ratio=0.2)
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: val.split and val.ratio exclude one another
    """

    split: str | None = None
    clips: list[str] | str | None = None
    keyframes: str | None = None
    ratio: float | None = None
    seed: int = 0
    overlap: bool = False

    def __post_init__(self) -> None:
        """Split a string of names, and refuse contradictory or invalid arguments."""
        object.__setattr__(self, "clips", _names(self.clips))
        given = [name for name in ("split", "clips", "keyframes", "ratio") if getattr(self, name) is not None]
        if len(given) > 1:
            raise WrpError(f"val.{given[0]} and val.{given[1]} exclude one another")
        check_range("val.seed", self.seed, 0, MAX_SEED)
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise WrpError(f"val.ratio must be in (0, 1), got {self.ratio}")


@dataclass(frozen=True)
class SamplingArgs:
    """How training crops are drawn.

    Attributes:
        crop_size: Height and width of the crops in pixels.
        batch_size: Crops per batch.
        epoch_length: Crops per training epoch; None: each frame once.
        class_uniform: Ratio of the crops, in [0, 1], that show a class drawn uniformly, so that rare classes appear
            often enough; the index of where each class is found is kept in ``~/.cache/wrp/tiles``.
        unlabelled: Ratio of the crops, in [0, 1), taken from frames without a label, for a module with a
            pseudo-labeler.
        seed: Seed of the order and the augmentation.

    Raises:
        WrpError: If a ratio or size is out of range.

    Example:
        >>> SamplingArgs(crop_size=(128, 128), batch_size=4).epoch_length is None
        True
    """

    crop_size: tuple[int, int] = (192, 256)
    batch_size: int = 8
    epoch_length: int | None = None
    class_uniform: float = 0.0
    unlabelled: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not 0 <= self.class_uniform <= 1:
            raise WrpError(f"sampling.class_uniform must be in 0 … 1, got {self.class_uniform}")
        if not 0 <= self.unlabelled < 1:
            raise WrpError(f"sampling.unlabelled must be at least 0 and below 1, got {self.unlabelled}")
        if self.batch_size < 1 or min(self.crop_size) < 1:
            raise WrpError(
                "sampling.batch_size and both sides of sampling.crop_size must be at least 1, got "
                f"{self.batch_size} and {self.crop_size}"
            )
        check_crops("sampling.crop_size", self.crop_size, self.batch_size)
        check_range("sampling.epoch_length", self.epoch_length, 1, sys.maxsize)
        check_range("sampling.seed", self.seed, 0, MAX_SEED)


def check_crops(name: str, size: Sequence[int], batch: int) -> None:
    """Raise WrpError if no batch of training crops can have this size.

    Args:
        name: The name of the size, for the message.
        size: Height and width of the crops in pixels.
        batch: Number of crops.

    Example:
        >>> check_crops("--crop-size", (192, 256), 8)
    """
    check_range(name, size, 1, MAX_SIDE)
    if batch * math.prod(size) > MAX_BATCH_PIXELS:
        raise WrpError(f"{name} {tuple(size)} in batches of {batch} are more than {MAX_BATCH_PIXELS:,} pixels")


@dataclass(frozen=True)
class NetworkArgs:
    """A segmentation network by name, see :func:`~wrp.segmentation.network.create_segmenter`.

    Attributes:
        arch: Name of the architecture in segmentation-models-pytorch.
        encoder_name: Name of one of its encoders, or ``tu-`` followed by the name of a timm model.
        encoder_weights: Name of the encoder weights, such as ``imagenet``, which are taken from an installed package
            (extra ``pretrained``) or downloaded, or a file (.pth, .safetensors); None: train from scratch.
        options: Further arguments of the architecture, e.g. ``{"decoder_pyramid_channels": 64}`` for ``FPN``.
        scale: Magnification at which the network works: 0.5 is about four times as fast, but blurs thin structures.
        ocr: Whether the head is an :class:`~wrp.segmentation.heads.OCRHead`.
        attention_scales: Scales that are blended by learned attention, see
            :class:`~wrp.segmentation.multiscale.MultiScale`; None: a single scale, without attention.
        test_scales: Scales that are blended in evaluation; None: those of training.

    Raises:
        WrpError: If a scale is out of range.

    Example:
        >>> NetworkArgs("FPN", "tu-regnetx_002", options={"decoder_pyramid_channels": 64}).scale
        1.0
    """

    arch: str = "FPN"
    encoder_name: str = "resnet18"
    encoder_weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    ocr: bool = False
    attention_scales: list[float] | None = None
    test_scales: list[float] | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range; the scale 0 stands for that of a recipe."""
        if self.scale != 0:
            check_range("network.scale", self.scale, *SCALES)
        check_range("network.attention_scales", self.attention_scales, *SCALES)
        check_range("network.test_scales", self.test_scales, *SCALES)


@dataclass(frozen=True)
class RefinerArgs:
    """The refiner's network, see :class:`~wrp.refinement.network.Refiner`.

    Attributes:
        channels: Width of each level of its U-Net, half resolution first; multiples of 4.
        decoder: Architecture of segmentation-models-pytorch that gives the refiner features of the image, computed by
            an encoder; None: the refiner gets the image alone.
        encoder_name: Name of that encoder.
        encoder_from: Checkpoint of a SegmentationModule whose encoder and encoder weights are used instead.
        freeze_encoder: Whether the encoder is not trained.

    Example:
        >>> RefinerArgs(channels=(8, 16)).decoder is None
        True
    """

    channels: tuple[int, ...] = (16, 32, 48, 64)
    decoder: str | None = None
    encoder_name: str | None = None
    encoder_from: str | None = None
    freeze_encoder: bool = True


@dataclass(frozen=True)
class CycleArgs:
    """How training examples of a refiner are drawn, see :class:`~wrp.refinement.sampler.CycleExamples`.

    Attributes:
        interval: Distance between the two keyframes that an example imitates, in frames; None: the length of the
            longest cycle.
        pair_ratio: Ratio of the examples, in [0, 1], that use another keyframe's label, where one is near enough.
        crossed: Whether a cycle goes out along the composed flow and back along the direct one, and the other way
            round. Along one flow both ways, a cycle returns to its start however wrong the flow is.
        displacement: Smooth random displacement of each source of an example, standard deviation in pixels.
        jitter: Strength of the random brightness, contrast and saturation of the examples, 0 … 1. It delays
            overfitting, as there are few labelled frames.

    Raises:
        WrpError: If a number is out of range.

    Example:
        >>> CycleArgs(interval=10).pair_ratio
        0.5
    """

    interval: int | None = None
    pair_ratio: float = 0.5
    crossed: bool = True
    displacement: float = 0.0
    jitter: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_range("cycles.interval", self.interval, 1, MAX_COUNT)
        check_range("cycles.pair_ratio", self.pair_ratio, 0, 1)
        check_range("cycles.displacement", self.displacement, 0, MAX_SIDE)
        check_range("cycles.jitter", self.jitter, 0, 1)


@dataclass(frozen=True)
class KeepArgs:
    """Where a refiner's examples, which are costly to compute, are kept.

    Attributes:
        folder: A folder for the files, which runs may share and all processes reach; None: a temporary folder, for
            processes on one machine.
        max_bytes: Size limit in bytes of the examples of one training, a quarter of it for those of validation; less
            where the disk has less room. Nothing is deleted to keep it: each keyframe has its part of it, and one that
            needs more is kept as fewer examples. What is there already is used as it is.

    Example:
        >>> KeepArgs().max_bytes
        2147483648
    """

    folder: str | None = None
    max_bytes: int = 2**31


@dataclass(frozen=True)
class OptimizerArgs:
    """How a network is optimised, with the "poly" schedule: the learning rate falls to 0 as (1 - step / steps)^power.

    Attributes:
        name: ``adamw`` or ``sgd`` (momentum 0.9).
        lr: Learning rate at the start.
        weight_decay: Weight decay.
        decay_all: Whether the weight decay acts on all parameters. False spares norms, biases and what else has one
            dimension, and what timm says of the encoder (``no_weight_decay``): position embeddings, class and register
            tokens, relative position biases. Transformers and ConvNeXt are usually trained so. It is not the default
            for them, as a training should depend on what is written in its configuration, not on the encoder's family.
        encoder_lr: Learning rate of the encoder as a ratio of ``lr``; 0 freezes it.
        layer_decay: Factor on the learning rate for each further layer of the encoder, from its last to its first. The
            layers of timm's encoders are the blocks by which timm counts them (``group_matcher``).
        scale_lr: Whether the learning rate is multiplied by the number of processes and of accumulated batches.
        warmup: Steps in which the learning rate rises in a line to that of the schedule; 0: none.
        power: Power of the schedule: 1 is a straight line, 0 a learning rate that stays as it is, which is all that a
            training without a known end can have.

    Raises:
        WrpError: If ``name`` is neither ``adamw`` nor ``sgd``, or a number is out of range.

    Example:
        >>> OptimizerArgs(name="sgd", lr=0.01).weight_decay
        0.01
        >>> OptimizerArgs(name="lion")
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: unknown optimizer 'lion', expected one of adamw, sgd
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    decay_all: bool = True
    encoder_lr: float = 1.0
    layer_decay: float = 1.0
    scale_lr: bool = False
    warmup: int = 0
    power: float = 0.9

    def __post_init__(self) -> None:
        """Refuse an unknown optimizer, and what is out of range."""
        check_choice("optimizer", self.name, ("adamw", "sgd"))
        if self.warmup < 0 or self.power < 0:
            raise WrpError(
                f"optimizer.warmup and optimizer.power must be at least 0, got {self.warmup} and {self.power}"
            )
        check_range("optimizer.warmup", self.warmup, 0, MAX_COUNT)
        for name in ("lr", "weight_decay", "encoder_lr", "layer_decay", "power"):
            check_range(f"optimizer.{name}", getattr(self, name), 0, 1000)


@dataclass(frozen=True)
class InferenceArgs:
    """Sliding windows and test-time augmentation: how class probabilities are computed in evaluation.

    Attributes:
        window: Height and width of the sliding windows in pixels; None: the whole image at once.
        overlap: Least ratio of a window, in [0, 1), that it shares with the next one.
        scales: Magnifications of the image; class probabilities are averaged over them.
        flip: Whether the probabilities of the mirror image are averaged in as well.

    Raises:
        WrpError: If a value is out of range.

    Example:
        >>> InferenceArgs(window=(256, 256), scales=[1.0, 1.5], flip=True).scales
        [1.0, 1.5]
    """

    window: tuple[int, int] | None = None
    overlap: float = 1 / 3
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not 0 <= self.overlap < 1:
            raise WrpError(f"overlap must be at least 0 and below 1, got {self.overlap}")
        if not self.scales or min(self.scales) <= 0:
            raise WrpError(f"scales must be some positive numbers, got {self.scales}")
        if self.window is not None and min(self.window) < 1:
            raise WrpError(f"window must be a height and width in pixels, got {self.window}")
        check_range("scales", self.scales, *SCALES)
        check_range("window", self.window, 1, MAX_SIDE)


def _names(clips: list[str] | str | None) -> list[str] | None:
    return [name.strip() for name in clips.split(",") if name.strip()] if isinstance(clips, str) else clips


def make_plain(hparams: MutableMapping[str, Any]) -> None:
    """Turn argument groups among the hyper-parameters into dictionaries, in place: checkpoints hold only plain values.

    Example:
        >>> hparams = {"keep": KeepArgs(folder="kept")}
        >>> make_plain(hparams)
        >>> hparams
        {'keep': {'folder': 'kept', 'max_bytes': 2147483648}}
    """
    for name, value in list(hparams.items()):
        if is_dataclass(value) and not isinstance(value, type):
            hparams[name] = asdict(value)


def as_options(kind: type[Options], value: Options | dict[str, Any] | None) -> Options:
    """Return a group of arguments, which may be given as a dictionary, as saved in a checkpoint.

    Args:
        kind: The class of the group.
        value: The group, or its arguments as a dictionary; None: the defaults.

    Raises:
        WrpError: If the dictionary has an unknown argument, or the value is something else.

    Example:
        >>> as_options(KeepArgs, {"max_bytes": 100})
        KeepArgs(folder=None, max_bytes=100)
    """
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise WrpError(f"expected {kind.__name__} or a dictionary of its arguments, got {type(value).__name__}")
    assert is_dataclass(kind)
    if unknown := sorted(set(value) - {one.name for one in fields(kind)}):
        raise WrpError(f"{kind.__name__} has no argument {unknown[0]!r}")
    return kind(**value)


_WHOLE = ("losses", "options", "flow_args", "trainer")


def flat(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Flatten nested settings into pairs of a dotted name and a value.

    The dictionaries ``losses``, ``options``, ``flow_args`` and ``trainer`` are values and stay whole.

    Example:
        >>> list(flat({"out": "run", "val": {"ratio": 0.2}}))
        [('out', 'run'), ('val.ratio', 0.2)]
    """
    for name, value in settings.items():
        if isinstance(value, dict) and value and name not in _WHOLE:
            yield from ((f"{name}.{inner}", found) for inner, found in flat(value))
        else:
            yield name, value


def read_slice(text: str) -> slice:
    """Parse a choice of frames, ``START:STOP:STEP`` as in Python; the step, at least 1, may be left out.

    Raises:
        WrpError: If the text has another form.

    Example:
        >>> read_slice("100:400:2"), read_slice("-50:")
        (slice(100, 400, 2), slice(-50, None, None))
    """
    parts = text.replace(" ", "").split(":")
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1):
        raise WrpError(f"--frames must be START:STOP or START:STOP:STEP, such as 100:400:2, got {text!r}")
    return slice(*numbers)


def read_shard(text: str, what: str) -> tuple[int, int]:
    """Parse a shard ``i/n``: return its number, counted from 0, and how many shards there are.

    Args:
        text: The shard, e.g. ``2/3``.
        what: The name of the option, for the message.

    Raises:
        DataError: If ``text`` is not i/n with i in 1 … n, or n is above :data:`MAX_SHARDS`.

    Example:
        >>> read_shard("2/3", "--shard")
        (1, 3)
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise DataError(f"{what} must be i/n with i in 1 … n, such as 2/3; got {text!r}")
    if int(count) > MAX_SHARDS:
        raise DataError(f"{what} must have at most {MAX_SHARDS:,} parts, got {text!r}")
    return int(number) - 1, int(count)
