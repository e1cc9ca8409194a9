"""Groups of arguments that are written once and used by modules, data modules and runs alike; loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from wrp.errors import DataError, WrpError

Options = TypeVar("Options")


@dataclass(frozen=True)
class SelectArgs:
    """Which clips of a data set are used, and which of their labels are keyframes; the others are held back.

    Attributes:
        clips: Names of the clips, as a list or with commas; None: all.
        label_every: Keep every K-th label and hold back the others; None: keep all.
        label_offset: Number of the first label that is kept.
        keyframes: A file with the labels to keep, lines ``<clip>/<frame>``, instead of every K-th.
    """

    clips: list[str] | str | None = None
    label_every: int | None = None
    label_offset: int = 0
    keyframes: str | None = None

    def __post_init__(self) -> None:
        """Take names apart."""
        object.__setattr__(self, "clips", _names(self.clips))


@dataclass(frozen=True)
class ValArgs:
    """Which labelled frames are for validation and test, and not for training; at most one of the first four.

    Without any, the labels that :class:`SelectArgs` holds back.

    Attributes:
        split: Another split of the data set.
        clips: Names of clips, as a list or with commas.
        keyframes: A file of frames, lines ``<clip>/<frame>``.
        ratio: So many of the labelled frames, drawn at random, in (0, 1).
        seed: Seed of that draw.
        overlap: Whether training and validation may have labels in common: scores then say little. Where no label is
            held back at all, training labels are validated on.

    Raises:
        WrpError: If several are given, or the ratio is none.
    """

    split: str | None = None
    clips: list[str] | str | None = None
    keyframes: str | None = None
    ratio: float | None = None
    seed: int = 0
    overlap: bool = False

    def __post_init__(self) -> None:
        """Take names apart, and refuse what contradicts itself."""
        object.__setattr__(self, "clips", _names(self.clips))
        given = [name for name in ("split", "clips", "keyframes", "ratio") if getattr(self, name) is not None]
        if len(given) > 1:
            raise WrpError(f"val.{given[0]} and val.{given[1]} exclude one another")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise WrpError(f"val.ratio must be in (0, 1), got {self.ratio}")


@dataclass(frozen=True)
class SamplingArgs:
    """How training crops are drawn.

    Attributes:
        crop_size: Height and width of the crops in pixels.
        batch_size: Crops per batch.
        epoch_length: Crops per training epoch; None: each frame once.
        class_uniform: Ratio of the crops that show a class which is drawn uniformly, so that rare ones have their
            part; the index of where classes are is kept in ``~/.cache/wrp/tiles``.
        unlabelled: Ratio of the crops that come from frames without a label, for a module that guesses them.
        seed: Seed of order and augmentation.

    Raises:
        WrpError: If a ratio or size is out of range.
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


@dataclass(frozen=True)
class NetworkArgs:
    """A segmentation network by name, see :func:`~wrp.segmentation.network.create_segmenter`.

    Attributes:
        arch: Name in segmentation-models-pytorch.
        encoder_name: Name of an encoder there, or ``tu-`` and a name of timm's.
        encoder_weights: Encoder weights, e.g. ``imagenet``; None to start from scratch.
        options: Further arguments of the architecture, e.g. ``{"decoder_pyramid_channels": 64}`` of ``FPN``.
        scale: Working resolution of the network: 0.5 is about four times as fast, and blurs what is thin.
        ocr: Whether the head is an :class:`~wrp.segmentation.heads.OCRHead`.
        attention_scales: Scales that are blended by learned attention, see
            :class:`~wrp.segmentation.multiscale.MultiScale`; None: the image as it is.
        test_scales: Scales that are blended in evaluation; None: those of training.
    """

    arch: str = "FPN"
    encoder_name: str = "resnet18"
    encoder_weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    ocr: bool = False
    attention_scales: list[float] | None = None
    test_scales: list[float] | None = None


@dataclass(frozen=True)
class RefinerArgs:
    """The refiner's network, see :class:`~wrp.refinement.network.Refiner`.

    Attributes:
        channels: Width of its levels, full resolution first.
        decoder: Architecture of segmentation-models-pytorch that shows it the image as an encoder sees it; None: it
            sees the image alone.
        encoder_name: Name of that encoder.
        encoder_from: Checkpoint of a SegmentationModule whose encoder and its weights are taken instead.
        freeze_encoder: Whether the encoder stays as it is.
    """

    channels: tuple[int, ...] = (16, 32, 48, 64, 96)
    decoder: str | None = None
    encoder_name: str | None = None
    encoder_from: str | None = None
    freeze_encoder: bool = True


@dataclass(frozen=True)
class CycleArgs:
    """How examples are drawn for a refiner, see :class:`~wrp.refinement.sampler.CycleExamples`.

    Attributes:
        interval: Distance between keyframes that examples imitate, in frames; None: the whole length of the walk.
        pair_ratio: Ratio of the examples that use another keyframe's label, where one is near enough.
        crossed: Whether a cycle goes out along the composed flow and back along the direct one, and the other way
            round; along one flow both ways it returns to its start however wrong the flow is.
        displacement: Smooth random displacement of each source of an example, standard deviation in pixels.
        jitter: Strength of random brightness, contrast and saturation of the examples, 0 … 1: few labelled frames are
            learned by heart soon.
    """

    interval: int | None = None
    pair_ratio: float = 0.5
    crossed: bool = True
    displacement: float = 0.0
    jitter: float = 0.3


@dataclass(frozen=True)
class KeepArgs:
    """Where what is costly to make is kept.

    Attributes:
        folder: A folder of files, which runs may share; None: in the memory of each process.
        max_bytes: How much is kept, in bytes; the least recently used goes first.
    """

    folder: str | None = None
    max_bytes: int = 2**31


@dataclass(frozen=True)
class OptimizerArgs:
    """How a network is optimised, with the "poly" schedule: the learning rate falls to 0 as (1 - step / steps)^0.9.

    Attributes:
        name: ``adamw`` or ``sgd`` (momentum 0.9).
        lr: Learning rate at the start.
        weight_decay: Weight decay.
        encoder_lr: Learning rate of the encoder as a ratio of ``lr``; 0 freezes it.
        layer_decay: The same for each further layer of the encoder, from its end to its beginning.
        scale_lr: Whether the learning rate grows with the number of processes and of accumulated batches.

    Raises:
        WrpError: If there is no such optimizer.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    encoder_lr: float = 1.0
    layer_decay: float = 1.0
    scale_lr: bool = False

    def __post_init__(self) -> None:
        """Refuse an optimizer that there is not."""
        if self.name not in ("adamw", "sgd"):
            raise WrpError(f"unknown optimizer {self.name!r}, expected adamw or sgd")


@dataclass(frozen=True)
class InferenceArgs:
    """From what labels are decided in evaluation.

    Attributes:
        window: Height and width of sliding windows in pixels; None: the whole image at once.
        overlap: Ratio of a window that it has in common with the next one, at least.
        scales: Magnifications of the image; class probabilities are averaged over them.
        flip: Whether the mirror image counts as well.

    Raises:
        WrpError: If a value is out of range.
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


def _names(clips: list[str] | str | None) -> list[str] | None:
    return [name.strip() for name in clips.split(",") if name.strip()] if isinstance(clips, str) else clips


def make_plain(hparams: MutableMapping[str, Any]) -> None:
    """Turn groups of arguments among hyper-parameters into dictionaries: checkpoints hold plain values alone."""
    for name, value in list(hparams.items()):
        if is_dataclass(value) and not isinstance(value, type):
            hparams[name] = asdict(value)


def as_options(kind: type[Options], value: Options | dict[str, Any] | None) -> Options:
    """The group of arguments that was given, or was saved in a checkpoint as a dictionary; the default for None.

    Raises:
        WrpError: If a saved one has an argument that there is not.
    """
    if value is None:
        return kind()
    if not isinstance(value, dict):
        return value
    assert is_dataclass(kind)
    if unknown := sorted(set(value) - {one.name for one in fields(kind)}):
        raise WrpError(f"{kind.__name__} has no argument {unknown[0]!r}")
    return kind(**value)


def flat(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings with those of groups by their dotted names; dictionaries that are values stay whole."""
    for name, value in settings.items():
        if isinstance(value, dict) and value and name not in ("losses", "options"):
            yield from ((f"{name}.{inner}", found) for inner, found in flat(value))
        else:
            yield name, value


def read_shard(text: str, what: str) -> tuple[int, int]:
    """(number from 0, how many there are) of a share ``i/n``; DataError if it is no such thing."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise DataError(f"{what} must be i/n with i in 1 … n, such as 2/3; got {text!r}")
    return int(number) - 1, int(count)
