"""The containers in which data, modules and callbacks meet; their fields carry the shapes and units.

Arrays and tensors of labels hold class *indices* 0 … C-1 and :data:`IGNORE_INDEX`; the ids that stand in the files
are known to :class:`LabelMap` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wrp.errors import DataError

if TYPE_CHECKING:  # else `wrp --help` would wait for torch
    import torch
    from torch import Tensor
    from torch.utils.data import Dataset

IGNORE_INDEX = 255
"""Label of a pixel without a class: left out of every loss and score, written where nothing is known."""

_UNKNOWN = 254


@dataclass(frozen=True)
class LabelMap:
    """What the values of label files mean.

    Attributes:
        ids: The id of each class in the files, in the order of the class indices 0 … C-1.
        names: The name of each class.
        colors: RGB colour of each class, 0 … 255.
        ignore: Values that mean "no class"; 255 always does, unless it is an alias.
        aliases: Further values of a class, as pairs (value, id): DAVIS writes its object as 255 and means 1.
        more_colors: Further colours of a class in label files that are colour pictures, as pairs (colour, id).
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore: tuple[int, ...] = (IGNORE_INDEX,)
    aliases: tuple[tuple[int, int], ...] = ()
    more_colors: tuple[tuple[tuple[int, int, int], int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse maps that could not be read back."""
        if not self.ids or not len(self.ids) == len(self.names) == len(self.colors):
            raise DataError(
                f"a label map needs as many ids as names and colours and at least one, got {len(self.ids)} ids, "
                f"{len(self.names)} names, {len(self.colors)} colours"
            )
        values = [*self.ids, *self.ignore, *(value for value, _ in self.aliases)]
        if bad := [value for value in values if type(value) is not int or not 0 <= value <= 255]:
            raise DataError(f"ids must be whole numbers from 0 to 255, got {bad[0]!r}")
        if len(self.ids) > _UNKNOWN:
            raise DataError(f"at most {_UNKNOWN} classes fit into an 8-bit label, got {len(self.ids)}")
        if len(set(values)) < len(values):
            raise DataError(f"every id must have one meaning, got ids {self.ids}, ignore {self.ignore}")
        if lost := [alias for alias in (*self.aliases, *self.more_colors) if alias[1] not in self.ids]:
            raise DataError(f"an alias must mean one of the ids {self.ids}, got (value, id) = {lost[0]}")
        if IGNORE_INDEX in self.ids:
            raise DataError(f"id {IGNORE_INDEX} means 'unlabelled' and cannot be a class")
        if len(set(self.names)) < len(self.names):
            raise DataError(f"class names must differ, got {self.names}")

    @property
    def num_classes(self) -> int:
        """Number of classes C, without the ignored ones."""
        return len(self.ids)

    def encode(self, values: np.ndarray, path: Path | str = "") -> np.ndarray:
        """Turn the values of a file into class indices.

        Args:
            values: (H, W) uint8, as read from the file.
            path: The file, for the message.

        Returns:
            (H, W) uint8 with 0 … C-1 and 255.

        Raises:
            DataError: If a value is neither a class id nor an ignored one.
        """
        table = np.full(256, _UNKNOWN, np.uint8)
        table[[IGNORE_INDEX, *self.ignore]] = IGNORE_INDEX
        table[list(self.ids)] = np.arange(self.num_classes)
        for value, id_ in self.aliases:
            table[value] = self.ids.index(id_)
        unknown = (table == _UNKNOWN).nonzero()[0]
        if len(unknown):
            counts = np.bincount(values.ravel(), minlength=256)[unknown]
            if counts.any():
                found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(unknown, counts, strict=True) if n)
                raise DataError(
                    f"{path}: the label holds ids without a class: {found}; expected one of {list(self.ids)} or "
                    f"{sorted({IGNORE_INDEX, *self.ignore})} for unlabelled. Correct the label or add the class to "
                    "classes.yaml."
                )
        return table[values]

    def decode(self, labels: np.ndarray) -> np.ndarray:
        """Turn class indices (H, W) uint8 back into the ids of the files; unlabelled pixels become 255."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[: self.num_classes] = self.ids
        return table[labels]

    @property
    def written(self) -> LabelMap:
        """The map of the files that this package writes: the same ids, 255 for unlabelled, no aliases."""
        return LabelMap(self.ids, self.names, self.colors)

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Picture (…, 3) uint8 RGB of class indices (…) uint8; unlabelled pixels are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table[labels]

    @property
    def palette(self) -> list[int]:
        """The 768 numbers of a PNG palette that shows *ids* in the colours of their classes."""
        table = np.zeros((256, 3), np.uint8)
        table[list(self.ids)] = self.colors
        return [int(value) for value in table.ravel()]


@dataclass(frozen=True)
class VideoFrame:
    """Where a frame is that has no file of its own: ``number``, from 0, in a video."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path} frame {self.number}"


@dataclass(frozen=True)
class Frame:
    """One frame of a clip: ``stem`` names its outputs; ``label`` is the path of its dense label, if it has one.

    A label that was propagated comes with the path of its ``confidence``, 8-bit grey.
    """

    stem: str
    image: Path | VideoFrame
    label: Path | None = None
    confidence: Path | None = None


@dataclass(frozen=True)
class Clip:
    """A run of neighbouring frames of one camera.

    Attributes:
        name: Name of the clip and of its output folders.
        frames: All frames in temporal order.
        keyframes: Indices of the frames whose label may be used.
        hidden: Indices of the frames whose label exists but is kept back for scoring.
    """

    name: str
    frames: tuple[Frame, ...]
    keyframes: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class Interval:
    """The unit of work: the targets ``start`` … ``stop - 1`` of one clip and the keyframes on both sides of them.

    Every frame of a clip belongs to exactly one interval. ``previous`` <= ``start``; ``next`` >= ``stop - 1``; one of
    the two is missing at the ends of a clip that lie outside all keyframes.
    """

    clip: Clip
    start: int
    stop: int
    previous: int | None
    next: int | None

    @property
    def keyframes(self) -> tuple[int, ...]:
        """The keyframes there are, earlier first, each once."""
        return tuple(sorted({a for a in (self.previous, self.next) if a is not None}))

    @property
    def span(self) -> tuple[int, int]:
        """First and last frame that is needed, keyframes included."""
        return min(self.start, *self.keyframes), max(self.stop - 1, *self.keyframes)


@dataclass(frozen=True)
class FramePair:
    """Names of two frames of a clip between which there is flow: from ``source`` to ``target``."""

    clip: str
    source: str
    target: str


class IndexedFrames(Protocol):
    """Frames (3, H, W) uint8 RGB by their number: a list of them, or something that reads them late."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass
class ClipBatch:
    """A stretch of one clip: an interval to label, or a labelled frame with its neighbours.

    Attributes:
        clip: Name of the clip.
        stems: Names of the N frames.
        first: Index in the clip of ``frames[0]``.
        frames: N tensors (3, H, W) uint8 RGB; of a long stretch, read when they are asked for.
        labels: Labels that may be used, (H, W) uint8, by index in the clip.
        targets: Range [start, stop) of indices in the clip that are to be labelled, or the one to learn from.
        hidden: Labels for scoring only, (H, W) uint8, by index in the clip; empty unless a score is computed.
        number: Of a window, how many labelled frames of the data come before its own.
        unlabelled: Whether no label of the whole clip has a pixel with a class: nothing can be brought anywhere.
    """

    clip: str
    stems: list[str]
    first: int
    frames: IndexedFrames
    labels: dict[int, Tensor]
    queries: tuple[int, int]
    held_out: dict[int, Tensor] = field(default_factory=dict)
    number: int = 0
    unlabelled: bool = False

    @property
    def ends(self) -> tuple[int, int]:
        """Indices in the clip of the first and the last frame."""
        return self.first, self.first + len(self.frames) - 1

    def frame(self, index: int) -> Tensor:
        """The frame (3, H, W) uint8 with this index in the clip; IndexError outside of the stretch."""
        if index < self.first:
            raise IndexError(f"frame {index} lies before the stretch, which begins at {self.first}")
        frame = self.frames[index - self.first]
        # Frames that are read late were not there when the stretch went to its device.
        return frame.to(next(iter(self.labels.values())).device) if self.labels else frame

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same on a device, but for frames that are read late."""
        frames = self.frames
        if isinstance(frames, list):
            frames = [frame.to(device, non_blocking=non_blocking) for frame in frames]
        labels, held_out = (
            {index: label.to(device, non_blocking=non_blocking) for index, label in some.items()}
            for some in (self.labels, self.held_out)
        )
        return replace(self, frames=frames, labels=labels, held_out=held_out)


@dataclass
class FrameBatch:
    """B single frames of one size.

    Attributes:
        images: (B, 3, H, W) uint8 RGB.
        labels: (B, H, W) uint8, class indices and 255; all 255 where a frame has no label.
        clips: Name of the clip of each frame; empty for images without video.
        stems: Name of each frame.
        indices: Index of each frame in its clip.
        weights: How much each pixel counts in training, (B, H, W) float32 in [0, 1]; where it is positive without a
            label, one may be guessed. None: all labelled pixels count the same.
        unlabelled: How many of the frames come without any label, for somebody to guess it.
    """

    images: Tensor
    labels: Tensor
    clips: list[str]
    stems: list[str]
    indices: list[int]
    weights: Tensor | None = None
    unlabelled: int = 0

    def pin_memory(self) -> FrameBatch:
        """The same in page-locked memory, as a loader asks for where there is a GPU."""
        weights = None if self.weights is None else self.weights.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), weights=weights)


@dataclass(frozen=True)
class Prediction:
    """The label of one frame.

    Attributes:
        clip: Name of the clip.
        stem: Name of the frame.
        index: Index of the frame in the clip.
        method: What made the label: a propagation method, or ``keyframe`` for a keyframe's label, which was given.
        labels: (H, W) uint8, class indices and 255.
        confidence: (H, W) float32 in [0, 1]: how sure the label is, 0 where unlabelled.
        keyframes: Indices in the clip of the keyframes that were used, or that are around the frame where the method
            uses none; in temporal order.
        distances: Frames to each of them.
        provenance: (H, W) uint8, which of what the method was given agrees with the label: 1 the earlier or only
            keyframe, 2 the later one, 4 the teacher, and sums of these; None where it was given none of them.
    """

    clip: str
    stem: str
    index: int
    method: str
    labels: Tensor
    confidence: Tensor
    keyframes: tuple[int, ...] = ()
    distances: tuple[int, ...] = ()
    provenance: Tensor | None = None

    @property
    def distance(self) -> int | None:
        """Frames to the nearest of the keyframes; None where there is none."""
        return min(self.distances, default=None)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Prediction:
        """The same on a device, as Lightning asks for where it returns predictions."""
        names = [name for name in ("labels", "confidence", "provenance") if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names})


@dataclass
class RefinerInput:
    """What the refiner sees of B frames.

    Attributes:
        image: (B, 3, H, W) float32 in [0, 1].
        prior: y^WI, the inpainted soft label, (B, C, H, W) float32 that sums to 1, or to 0 where nothing is known.
        semantic: p^S, the teacher's probabilities, (B, C, H, W) float32; zeros where there is no teacher.
        cues: (B, 4, H, W) float32 in [0, 1]: motion-error mask, disagreement of the sources, their blended photometric
            error and nearness exp(-distance / 10).
        motion: y^M, the soft label before it was inpainted, (B, C, H, W) float32 that sums to 1 or 0.
    """

    image: Tensor
    prior: Tensor
    teacher_probs: Tensor
    cues: Tensor
    motion: Tensor

    def flip(self) -> RefinerInput:
        """The same of the mirrored frames."""
        return RefinerInput(*(values.flip(-1) for values in vars(self).values()))


@dataclass
class RefinerExamples:
    """B examples from one frame whose truth is known.

    Attributes:
        inputs: What the refiner sees.
        labels: The truth, (B, H, W) uint8, class indices and 255.
        clip: Name of the clip.
        stem: Name of the frame.
        index: Index of the frame in the clip.
    """

    inputs: RefinerInput
    labels: Tensor
    clip: str
    stem: str
    index: int

    def pin_memory(self) -> RefinerExamples:
        """The same in page-locked memory, as a loader asks for where there is a GPU."""
        inputs = RefinerInput(*(values.pin_memory() for values in vars(self.inputs).values()))
        return replace(self, inputs=inputs, labels=self.labels.pin_memory())


class Windows(Protocol):
    """Labelled frames with their neighbours, by number; each is read when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> ClipBatch: ...


class ExampleSource(ABC):
    """Makes examples for a refiner from labelled frames and their neighbours.

    Each of its data sets has as many items as there are windows, and an item is a batch for
    :class:`~wrp.RefinementModule`.
    """

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that its networks have learned from, see :func:`~wrp.io.manifest.label_hash`."""
        return frozenset()

    @abstractmethod
    def training(self, windows: Windows, num_classes: int, seed: int) -> Dataset[Any]:
        """Make the training set, whose items are asked for by :class:`~wrp.data.transforms.Draw`, and seeded by it."""

    @abstractmethod
    def validation(self, windows: Windows, num_classes: int) -> Dataset[Any]:
        """Make the validation set: the same examples each time."""
