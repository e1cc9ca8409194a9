"""Containers and protocols shared by data, modules and callbacks, with the shapes and units of their fields.

Arrays and tensors of labels hold class *indices* 0 … C-1 and :data:`IGNORE_INDEX`. Only :class:`LabelMap` knows the ids
that label files hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
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
"""Label of a pixel without a class: ignored by every loss and score, and written where nothing is known."""

_UNKNOWN = 254


@dataclass(frozen=True)
class LabelMap:
    """The classes of a data set, and the meaning of the values in its label files.

    Attributes:
        ids: The id of each class in the files, 0 … 254, in the order of the class indices 0 … C-1.
        names: The name of each class.
        colors: RGB colour of each class, 0 … 255.
        ignore: Values that mean "no class"; 255 always does, unless it is an alias.
        aliases: Further values of a class, as pairs (value, id): DAVIS writes 255 for its object, whose id is 1.
        more_colors: Further colours of a class in label files that are colour pictures, as pairs (colour, id).

    Raises:
        DataError: If the classes are incomplete, repeated or too many, or a value is out of range or ambiguous.

    Example:
        >>> label_map = LabelMap(ids=(0, 7), names=("sky", "road"), colors=((70, 130, 180), (128, 64, 128)))
        >>> indices = label_map.encode(np.array([[0, 7, 255]], np.uint8))
        >>> indices.tolist(), label_map.decode(indices).tolist()
        ([[0, 1, 255]], [[0, 7, 255]])
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore: tuple[int, ...] = (IGNORE_INDEX,)
    aliases: tuple[tuple[int, int], ...] = ()
    more_colors: tuple[tuple[tuple[int, int, int], int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse maps whose files could not be read back."""
        if not self.ids or not len(self.ids) == len(self.names) == len(self.colors):
            raise DataError(
                f"a label map needs as many ids as names and colours and at least one, got {len(self.ids)} ids, "
                f"{len(self.names)} names, {len(self.colors)} colours"
            )
        if IGNORE_INDEX in self.ids:
            raise DataError(
                f"id {IGNORE_INDEX} means 'unlabelled' and cannot be a class; give the class another id and `also: "
                f"[{IGNORE_INDEX}]`"
            )
        values = [*self.ids, *self.ignore, *(value for value, _ in self.aliases)]
        if bad := [value for value in values if type(value) is not int or not 0 <= value <= 255]:
            raise DataError(f"ids must be whole numbers from 0 to 255, got {bad[0]!r}")
        if len(self.ids) > _UNKNOWN:
            raise DataError(f"at most {_UNKNOWN} classes fit into an 8-bit label, got {len(self.ids)}")
        if double := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
            raise DataError(
                f"every value must have one meaning, but {double[0]} has two: ids {self.ids}, unlabelled (ignore) "
                f"{self.ignore}, also {tuple(value for value, _ in self.aliases)}"
            )
        if lost := [alias for alias in (*self.aliases, *self.more_colors) if alias[1] not in self.ids]:
            raise DataError(f"an alias must mean one of the ids {self.ids}, got (value, id) = {lost[0]}")
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
            path: The path of the file, for the message.

        Returns:
            (H, W) uint8, 0 … C-1 and 255.

        Raises:
            DataError: If a value is neither a class id nor an ignored one.
        """
        table = np.full(256, _UNKNOWN, np.uint8)
        table[[IGNORE_INDEX, *self.ignore]] = IGNORE_INDEX
        table[list(self.ids)] = np.arange(self.num_classes)
        for value, id_ in self.aliases:
            table[value] = self.ids.index(id_)
        encoded = table[values]
        if (encoded == _UNKNOWN).any():
            counts = np.bincount(values.ravel(), minlength=256)
            unknown = ((table == _UNKNOWN) & (counts > 0)).nonzero()[0]
            found = ", ".join(f"{value} ({counts[value]} pixels)" for value in unknown)
            raise DataError(
                f"{path}: the label holds ids without a class: {found}; expected one of {list(self.ids)} or "
                f"{sorted({IGNORE_INDEX, *self.ignore})} for unlabelled. Correct the label or add the class to "
                "classes.yaml."
            )
        return encoded

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
        """Turn class indices (…) uint8 into colours (…, 3) uint8 RGB; unlabelled pixels are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table[labels]

    @property
    def palette(self) -> list[int]:
        """The 768 numbers of a PNG palette that shows *ids* (not indices) in the colours of their classes."""
        table = np.zeros((256, 3), np.uint8)
        table[list(self.ids)] = self.colors
        return [int(value) for value in table.ravel()]


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video file: its path and its number, counted from 0.

    Example:
        >>> str(VideoFrame(Path("street.mp4"), 12))
        'street.mp4 frame 12'
    """

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path} frame {self.number}"


@dataclass(frozen=True)
class Frame:
    """The files of one frame of a clip.

    Attributes:
        stem: Name of the frame and of its output files.
        image: The image.
        label: Path of its dense label; None: it has none.
        confidence: Path of the confidence of a propagated label, 8-bit grey; None: there is none.
        never: Picture whose pixels, where they are not black, are never labelled; None: all may be.

    Example:
        >>> Frame("000000", Path("images/000000.png")).label is None
        True
    """

    stem: str
    image: Path | VideoFrame
    label: Path | None = None
    confidence: Path | None = None
    never: Path | None = None


@dataclass(frozen=True)
class Clip:
    """A sequence of consecutive frames of one camera.

    Attributes:
        name: Name of the clip and of its output folders.
        frames: All frames in temporal order.
        keyframes: Indices of the frames whose label may be used, ascending.
        held_out: Indices of the frames whose label exists but is used for scoring only, ascending.
        by_network: Whether it has no keyframe, as a network alone labels its frames: it is one interval then.

    Example:
        >>> frames = tuple(Frame(stem, Path(f"{stem}.png")) for stem in "abc")
        >>> clip = Clip("street", frames, keyframes=(0, 2))
        >>> clip.held_out, clip.distance(1)
        ((), 1)
    """

    name: str
    frames: tuple[Frame, ...]
    keyframes: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    by_network: bool = False

    def distance(self, index: int) -> int:
        """Return the number of frames from a frame to the nearest keyframe; 0 if there is none."""
        after = bisect_left(self.keyframes, index)
        return min((abs(index - keyframe) for keyframe in self.keyframes[max(0, after - 1) : after + 1]), default=0)


@dataclass(frozen=True)
class Interval:
    """The unit of work: the frames ``start`` … ``stop - 1`` of a clip, and the keyframes on both sides of them.

    Every frame of a clip belongs to exactly one interval.

    Attributes:
        clip: The clip.
        start: Index of the first frame to label.
        stop: Index behind the last frame to label.
        previous: Index of the keyframe before the frames, at most ``start``; None before the first keyframe of a clip.
        next: Index of the keyframe after the frames, at least ``stop - 1``; None after the last keyframe.

    Example:
        >>> clip = Clip("street", tuple(Frame(stem, Path(f"{stem}.png")) for stem in "abcd"), keyframes=(0, 3))
        >>> interval = Interval(clip, start=1, stop=3, previous=0, next=3)
        >>> interval.keyframes, interval.span
        ((0, 3), (0, 3))
    """

    clip: Clip
    start: int
    stop: int
    previous: int | None
    next: int | None

    @property
    def keyframes(self) -> tuple[int, ...]:
        """The indices of its keyframes, the earlier first, each once."""
        return tuple(sorted({a for a in (self.previous, self.next) if a is not None}))

    @property
    def span(self) -> tuple[int, int]:
        """Indices of the first and the last frame that are needed, keyframes included."""
        return min((self.start, *self.keyframes)), max((self.stop - 1, *self.keyframes))


@dataclass(frozen=True)
class FramePair:
    """Names of a clip and of two of its frames: flow leads from ``source`` to ``target``.

    Example:
        >>> FramePair("street", source="000000", target="000001").target
        '000001'
    """

    clip: str
    source: str
    target: str


class IndexedFrames(Protocol):
    """Frames (3, H, W) uint8 RGB by number: a list of tensors, or a sequence that reads each frame on access.

    Example:
        >>> import torch
        >>> frames: IndexedFrames = [torch.zeros(3, 8, 8, dtype=torch.uint8)]
        >>> len(frames), frames[0].shape
        (1, torch.Size([3, 8, 8]))
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass
class ClipBatch:
    """Consecutive frames of one clip, read: an interval to label, or a window, i.e. a labelled frame with neighbours.

    Attributes:
        clip: Name of the clip.
        stems: Names of the N frames.
        first: Index in the clip of ``frames[0]``.
        frames: N tensors (3, H, W) uint8 RGB; those of many frames are read on access.
        labels: Labels that may be used, (H, W) uint8, by index in the clip.
        queries: Range [start, stop) of indices in the clip: the frames to label, or the labelled frame of a window.
        held_out: Labels for scoring only, (H, W) uint8, by index in the clip; empty unless a score is computed.
        number: Of a window, how many labelled frames of the data come before its own.
        unlabelled: Whether no label of the whole clip has a pixel with a class, so that nothing can be propagated.
        hashes: Content hashes of frames that are known already, by index in the clip, see
            :func:`~wrp.flow.hashing.frame_hash`.
        never: Which pixels are never labelled, (H, W) bool; None: all may be.

    Example:
        >>> import torch
        >>> frames = [torch.full((3, 2, 2), value, dtype=torch.uint8) for value in (10, 11, 12)]
        >>> label = torch.zeros(2, 2, dtype=torch.uint8)
        >>> batch = ClipBatch("street", ["a", "b", "c"], 10, frames, labels={10: label, 12: label}, queries=(11, 12))
        >>> batch.ends, batch.frame(11)[0, 0].tolist()
        ((10, 12), [11, 11])
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
    hashes: dict[int, bytes] = field(default_factory=dict)
    never: Tensor | None = None

    @property
    def ends(self) -> tuple[int, int]:
        """Indices in the clip of the first and the last frame."""
        return self.first, self.first + len(self.frames) - 1

    def frame(self, index: int) -> Tensor:
        """Return the frame (3, H, W) uint8 with this index in the clip; raise IndexError if it is not included."""
        if index < self.first:
            raise IndexError(f"frame {index} lies before the stretch, which begins at {self.first}")
        frame = self.frames[index - self.first]
        if isinstance(self.frames, list) or not self.labels:
            return frame
        # Frames that are read on access did not exist yet when :meth:`to` moved the others. From page-locked memory,
        # they are copied while the host goes on.
        device = next(iter(self.labels.values())).device
        return frame.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else frame.to(device)

    def pin_memory(self) -> ClipBatch:
        """Copy to page-locked memory, from which :meth:`to` copies faster, and without waiting if ``non_blocking``.

        PyTorch's data loader calls this with ``pin_memory=True``. Frames that are read on access stay unread; hashes
        are kept.
        """
        frames = [frame.pin_memory() for frame in self.frames] if isinstance(self.frames, list) else self.frames
        labels, held_out = (
            {index: label.pin_memory() for index, label in some.items()} for some in (self.labels, self.held_out)
        )
        never = None if self.never is None else self.never.pin_memory()
        return replace(self, frames=frames, labels=labels, held_out=held_out, never=never)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """Copy to a device, except for frames that are read on access: :meth:`frame` moves these; hashes are kept.

        Args:
            device: The device.
            non_blocking: Whether the host may go on before all is copied: from page-locked memory to a GPU
                (:meth:`pin_memory`), always safe; from a GPU to the host, wait for the GPU before use.
        """
        frames = self.frames
        if isinstance(frames, list):
            frames = [frame.to(device, non_blocking=non_blocking) for frame in frames]
        labels, held_out = (
            {index: label.to(device, non_blocking=non_blocking) for index, label in some.items()}
            for some in (self.labels, self.held_out)
        )
        never = None if self.never is None else self.never.to(device, non_blocking=non_blocking)
        return replace(self, frames=frames, labels=labels, held_out=held_out, never=never)


@dataclass
class FrameBatch:
    """B single frames of one size.

    Attributes:
        images: (B, 3, H, W) uint8 RGB.
        labels: (B, H, W) uint8, class indices and 255; all 255 where a frame has no label.
        clips: Name of the clip of each frame; empty for images without video.
        stems: Name of each frame.
        indices: Index of each frame in its clip.
        weights: How much each pixel counts in training, (B, H, W) float32 in [0, 1]; where it is positive and there is
            no label, a pseudo-label may be used. None: all labelled pixels count the same.
        unlabelled: How many of the frames have no label and need pseudo-labels.

    Example:
        >>> import torch
        >>> images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.full((2, 8, 8), 255, dtype=torch.uint8)
        >>> batch = FrameBatch(images, labels, ["street", "street"], ["a", "b"], [0, 1], unlabelled=2)
        >>> batch.images.shape, batch.weights is None
        (torch.Size([2, 3, 8, 8]), True)
    """

    images: Tensor
    labels: Tensor
    clips: list[str]
    stems: list[str]
    indices: list[int]
    weights: Tensor | None = None
    unlabelled: int = 0

    def pin_memory(self) -> FrameBatch:
        """Copy to page-locked memory; PyTorch's data loader calls this where there is a GPU."""
        weights = None if self.weights is None else self.weights.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), weights=weights)


@dataclass(frozen=True)
class Prediction:
    """The label of one frame.

    Attributes:
        clip: Name of the clip.
        stem: Name of the frame.
        index: Index of the frame in the clip.
        method: Name of the propagation method that made the label; ``keyframe`` for the given label of a keyframe.
        labels: (H, W) uint8, class indices and 255.
        confidence: (H, W) float32 in [0, 1], 0 where unlabelled.
        keyframes: Indices in the clip of the keyframes that were used, in temporal order; if the method uses none, the
            keyframes of the interval.
        distances: Distance to each of them, in frames.
        provenance: (H, W) uint8, which of the method's inputs agree with the label: a sum of 1 for the earlier or only
            keyframe, 2 for the later one, 4 for the teacher; None if the method has none of these inputs.

    Example:
        >>> import torch
        >>> labels, confidence = torch.ones(2, 2, dtype=torch.uint8), torch.ones(2, 2)
        >>> prediction = Prediction("street", "000003", 3, "motion", labels, confidence, (0, 5), (3, 2))
        >>> prediction.distance
        2
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
        """Distance to the nearest of the keyframes, in frames; None if there is none."""
        return min(self.distances, default=None)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Prediction:
        """Copy to a device; Lightning calls this for the predictions that it returns."""
        names = [name for name in ("labels", "confidence", "provenance") if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names})


@dataclass
class RefinerInput:
    """Input of the refiner for B frames.

    Attributes:
        image: (B, 3, H, W) float32 in [0, 1].
        prior: y^WI, the inpainted soft label, (B, C, H, W) float32 that sums to 1, or to 0 where nothing is known.
        teacher_probs: p^S, the teacher's probabilities, (B, C, H, W) float32; zeros if there is no teacher.
        cues: (B, 4, H, W) float32 in [0, 1]: the motion-error mask, the disagreement of the sources, their blended
            photometric error, and their blended nearness exp(-distance / 10).
        motion: y^M, the soft label before inpainting, (B, C, H, W) float32 that sums to 1 or 0.

    Example:
        >>> import torch
        >>> soft, cues = torch.full((1, 2, 4, 4), 0.5), torch.zeros(1, 4, 4, 4)
        >>> inputs = RefinerInput(torch.zeros(1, 3, 4, 4), prior=soft, teacher_probs=soft, cues=cues, motion=soft)
        >>> inputs.flip().prior.shape
        torch.Size([1, 2, 4, 4])
    """

    image: Tensor
    prior: Tensor
    teacher_probs: Tensor
    cues: Tensor
    motion: Tensor

    def flip(self) -> RefinerInput:
        """Mirror all maps from left to right."""
        return RefinerInput(*(values.flip(-1) for values in vars(self).values()))


@dataclass
class RefinerExamples:
    """B training examples of the refiner.

    Attributes:
        inputs: The refiner's input.
        labels: The ground truth, (B, H, W) uint8, class indices and 255.
        clips: Name of the clip of each example's frame.
        stems: Name of each frame.
        indices: Index of each frame in its clip.

    Example:
        >>> import torch
        >>> soft = torch.full((1, 2, 4, 4), 0.5)
        >>> inputs = RefinerInput(torch.zeros(1, 3, 4, 4), soft, soft, torch.zeros(1, 4, 4, 4), soft)
        >>> RefinerExamples(inputs, torch.zeros(1, 4, 4, dtype=torch.uint8), ["street"], ["000003"], [3]).stems
        ['000003']
    """

    inputs: RefinerInput
    labels: Tensor
    clips: list[str]
    stems: list[str]
    indices: list[int]

    def pin_memory(self) -> RefinerExamples:
        """Copy to page-locked memory; PyTorch's data loader calls this where there is a GPU."""
        inputs = RefinerInput(*(values.pin_memory() for values in vars(self.inputs).values()))
        return replace(self, inputs=inputs, labels=self.labels.pin_memory())


class Windows(Protocol):
    """Windows, i.e. labelled frames with their neighbours, by number; each is read on access.

    Example:
        >>> import torch
        >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2, torch.zeros(8, 8, dtype=torch.uint8)
        >>> windows: Windows = [ClipBatch("street", ["a", "b"], 0, frames, {0: label}, queries=(0, 1))]
        >>> windows[0].queries
        (0, 1)
    """

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> ClipBatch: ...


class ExampleSource(ABC):
    """Makes training examples of a refiner from labelled frames and their neighbours.

    Each of its data sets has as many items as there are windows. An item is one example, a
    :class:`RefinerExamples` with B = 1; :class:`~wrp.RefinementData` joins several into a batch.

    Attributes:
        crops: Examples per batch of each process, in training.

    Example:
        >>> class MyExamples(ExampleSource):
        ...     def training(self, windows, num_classes, seed):
        ...         return []  # a torch data set of RefinerExamples
        ...     def validation(self, windows, num_classes):
        ...         return []
        >>> MyExamples().crops, MyExamples().labels_seen
        (1, frozenset())
    """

    crops: int = 1

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that its networks were trained on, see :func:`~wrp.io.manifest.label_hash`."""
        return frozenset()

    @abstractmethod
    def training(self, windows: Windows, num_classes: int, seed: int) -> Dataset[Any]:
        """Make the training set, and before that whatever takes long, as items are read again and again.

        :class:`~wrp.RefinementData` calls this before training, in all processes at the same point, so that they can
        share that work.

        Args:
            windows: The labelled frames with their neighbours.
            num_classes: Number of classes C.
            seed: Seed of the run.

        Returns:
            A data set whose items are indexed by :class:`~wrp.data.transforms.Draw`, which also seeds each item.
        """

    @abstractmethod
    def validation(self, windows: Windows, num_classes: int) -> Dataset[Any]:
        """Make the validation set, which holds the same examples each time; arguments as in :meth:`training`."""
