"""Items of the data modules: single frames, labelled frames with their neighbours, intervals."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from wrp.data.classes import has_class
from wrp.data.index import intervals
from wrp.data.sampling import distribute
from wrp.data.transforms import Draw, TrainTransform
from wrp.errors import DataError
from wrp.flow.hashing import content_hash
from wrp.io.caching import BoundedCache, count_bytes
from wrp.io.images import read_confidence, read_frame_label, read_image, read_never
from wrp.structures import IGNORE_INDEX, Clip, ClipBatch, Frame, FrameBatch, Interval, LabelMap, VideoFrame

# Memory of decoded frames that one loader may keep, in bytes: neighbouring windows share their frames.
FRAME_CACHE_BYTES = 2**28

# In bytes: where the frames of a stretch take more memory, they are read one by one on use, and what fits is kept. This
# is 1035 frames of 480×360, or 85 of 2048×1024.
STRETCH_BYTES = 2**29

# Frames of a stretch that are decoded at the same time.
DECODERS = 2


class FrameItems(Dataset[FrameBatch]):
    """Single frames, each a batch of one; :func:`collate_frames` joins them.

    An item is chosen by its number or, for augmentation, by a :class:`~wrp.data.transforms.Draw`.

    Args:
        frames: Frames with the name of their clip and their index in it.
        label_map: Classes of the labels.
        transform: Augmentation; None: frames are served as they are.
        weigh: Turns the confidence of propagated labels into weights of the pixels, both float32 in [0, 1] and of one
            shape.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> label_map = LabelMap((0, 1), ("road", "car"), ((128, 64, 128), (0, 0, 142)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 4)).save(Path(folder, "0.png"))
        ...     batch = FrameItems([("a", 0, Frame("0", Path(folder, "0.png")))], label_map)[0]
        >>> tuple(batch.images.shape), batch.labels.unique().tolist(), batch.unlabelled
        ((1, 3, 4, 6), [255], 1)
    """

    def __init__(
        self,
        frames: Sequence[tuple[str, int, Frame]],
        label_map: LabelMap,
        transform: TrainTransform | None = None,
        weigh: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        self.frames = list(frames)
        self.label_map = label_map
        self.transform = transform
        self.weigh = weigh
        self._decoded: BoundedCache[Frame, list[Tensor]] = BoundedCache(FRAME_CACHE_BYTES, count_bytes)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: int | Draw) -> FrameBatch:
        draw = key if isinstance(key, Draw) else Draw(0, key)
        clip, index, frame = self.frames[draw.index]
        # A frame may be served with several labels: its own, a propagated one, none.
        image, *maps = self._decoded.get(frame, lambda: self._read(frame))
        if self.transform is not None:
            image, maps = self.transform(image, maps, draw)
        label, weights = maps[0][None], None
        if len(maps) > 1:
            weights = self.weigh(maps[1][None] / 255) if frame.label is not None else (maps[1][None] > 0).float()
            if frame.label is not None:  # weight 0: no label; elsewhere a pseudo-label is allowed
                label = label.masked_fill(weights == 0, IGNORE_INDEX)
        return FrameBatch(image[None], label, [clip], [frame.stem], [index], weights, int(frame.label is None))

    def _read(self, frame: Frame) -> list[Tensor]:
        image = read_image(frame.image)
        label = _label_or_nothing(frame, image, self.label_map)
        if frame.label is None and self.transform is not None:
            # A pseudo-label is allowed everywhere, but for what is never labelled.
            allowed = torch.full_like(label, 255)
            if frame.never is not None:
                allowed[read_never(frame.never, (label.shape[0], label.shape[1]))] = 0
            return [image, label, allowed]
        if frame.confidence is None:
            return [image, label]
        confidence = read_confidence(frame.confidence, (label.shape[0], label.shape[1]))
        return [image, label, (confidence * 255).round().to(torch.uint8)]


def collate_frames(items: Sequence[FrameBatch]) -> FrameBatch:
    """Join frames of one size into one batch; raise DataError if sizes differ."""
    if len(sizes := {item.images.shape for item in items}) > 1:
        raise DataError(f"frames of one batch must have one size, got {sorted(sizes)}: set batch_size=1")
    weights = None
    if any(item.weights is not None for item in items):
        weights = torch.cat([_full_weights(i.labels) if i.weights is None else i.weights for i in items])
    return FrameBatch(
        torch.cat([item.images for item in items]),
        torch.cat([item.labels for item in items]),
        [name for item in items for name in item.clips],
        [stem for item in items for stem in item.stems],
        [index for item in items for index in item.indices],
        weights,
        sum(item.unlabelled for item in items),
    )


def _full_weights(labels: Tensor) -> Tensor:
    return (labels != IGNORE_INDEX).float()


class ClipItems(Dataset[ClipBatch]):
    """Base of the items that are stretches of a clip; decoded frames are cached within bounded memory.

    Args:
        label_map: Classes of the labels.

    Example:
        >>> ClipItems(LabelMap((0,), ("road",), ((128, 64, 128),))).label_map.num_classes
        1
    """

    def __init__(self, label_map: LabelMap) -> None:
        self.label_map = label_map
        self._decoded = _DecodedFrames(FRAME_CACHE_BYTES, _nbytes)
        self._unlabelled: dict[str, bool] = {}

    def _read(
        self,
        clip: Clip,
        span: tuple[int, int],
        queries: tuple[int, int],
        labels: Sequence[int],
        held_out: Sequence[int],
    ) -> ClipBatch:
        """Read a stretch of a clip; what is wrong with its frames is raised where they are used, as if read there."""
        first, last = span
        wanted = clip.frames[first : last + 1]
        hashes: dict[int, bytes] = {}  # made here, in memory of the host and perhaps in a loader's process
        frames: list[Tensor] | LazyFrames | _Unreadable
        size: tuple[int, int] | None = None
        try:
            start = self._frame(wanted[0])
            size = start.shape[1], start.shape[2]
            if len(wanted) * start.nbytes > STRETCH_BYTES:
                frames = LazyFrames(clip.name, [frame.image for frame in wanted], size, first, hashes)
            else:
                frames = self._frames(clip, wanted)
                hashes |= {index: content_hash(frame) for index, frame in enumerate(frames, first)}
        except DataError as error:
            frames = _Unreadable(len(wanted), str(error))
        known = {index: self._label(clip, index, size) for index in labels}
        never = wanted[0].never
        return ClipBatch(
            clip=clip.name,
            stems=[frame.stem for frame in wanted],
            first=first,
            frames=frames,
            labels=known,
            queries=queries,
            held_out={index: self._label(clip, index, size) for index in held_out},
            unlabelled=not any(map(has_class, known.values())) and self._is_unlabelled(clip),
            hashes=hashes,
            never=None if never is None or size is None else read_never(never, size),
        )

    def _is_unlabelled(self, clip: Clip) -> bool:
        """Tell whether no keyframe of a clip has a pixel with a class; needed where those of a stretch have none."""
        if clip.name not in self._unlabelled:
            self._unlabelled[clip.name] = not any(has_class(self._label(clip, keyframe)) for keyframe in clip.keyframes)
        return self._unlabelled[clip.name]

    def _frame(self, frame: Frame) -> Tensor:
        return self._decoded.get(frame.image, lambda: read_image(frame.image))

    def _frames(self, clip: Clip, wanted: Sequence[Frame]) -> list[Tensor]:
        """Decode frames, several at a time, but for those of a video, which come one after the other."""
        if isinstance(wanted[0].image, VideoFrame):
            frames = [self._frame(frame) for frame in wanted]
        else:
            images = [frame.image for frame in wanted]
            held = {image: there for image in images if (there := self._decoded.peek(image)) is not None}
            with ThreadPoolExecutor(DECODERS) as pool:
                read = pool.map(read_image, [image for image in images if image not in held])
                frames = [held[i] if i in held else self._decoded.get(i, lambda: next(read)) for i in images]
        if len(sizes := {tuple(frame.shape[1:]) for frame in frames}) > 1:
            raise DataError(f"clip {clip.name}: its frames have different sizes (H, W): {sorted(sizes)}")
        return frames

    def _label(self, clip: Clip, index: int, size: tuple[int, int] | None = None) -> Tensor:
        return read_frame_label(clip.frames[index], self.label_map, size)


class _DecodedFrames(BoundedCache[Path | VideoFrame, Tensor]):
    def peek(self, image: Path | VideoFrame) -> Tensor | None:
        """Return a frame if it is held."""
        return self._items.get(image)


class LazyFrames:
    """The frames of a long stretch, each read on use.

    This is not a Sequence, as Lightning would read through one.

    Args:
        clip: Name of the clip, for messages.
        paths: The images.
        size: Height and width in pixels that all of them must have; another one raises DataError on use.
        first: Index in the clip of the first of them.
        hashes: Where the content hash of each frame is put once it is read, by its index in the clip; None: nowhere.

    Example:
        >>> len(LazyFrames("a", [Path(f"{i}.png") for i in range(200)], size=(480, 640)))
        200
    """

    def __init__(
        self,
        clip: str,
        paths: Sequence[Path | VideoFrame],
        size: tuple[int, int],
        first: int = 0,
        hashes: dict[int, bytes] | None = None,
    ) -> None:
        self.clip = clip
        self.paths = list(paths)
        self.size = size
        self.first = first
        self.hashes = {} if hashes is None else hashes
        self._start()

    def _start(self) -> None:
        # Frames are read from one end to the other and back, and by flow, warped labels and the teacher shortly after
        # one another, each in its own thread.
        self._decoded: BoundedCache[int, Tensor] = BoundedCache(STRETCH_BYTES, _nbytes)
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that is sent from a loader's process: without decoded frames."""
        return {name: getattr(self, name) for name in ("clip", "paths", "size", "first", "hashes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with self._turn:
            return self._decoded.get(index, lambda: self._read(index))

    def _read(self, index: int) -> Tensor:
        frame = read_image(self.paths[index])
        if tuple(frame.shape[1:]) != self.size:
            raise DataError(
                f"clip {self.clip}: its frames have different sizes (H, W): {self.size} and {tuple(frame.shape[1:])} "
                f"of {self.paths[index]}"
            )
        if self.first + index not in self.hashes:
            self.hashes[self.first + index] = content_hash(frame)
        return frame


class _Unreadable:
    """Frames of which one could not be read: each use of them raises the DataError with which it was refused."""

    def __init__(self, count: int, problem: str) -> None:
        self.count = count
        self.problem = problem

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        raise DataError(self.problem)


class WindowItems(ClipItems):
    """Each keyframe with its neighbours on both sides and the other keyframes among them; clips of one frame have none.

    Args:
        clips: The clips.
        label_map: Classes of the labels.
        radius: Context radius: number of neighbours on each side; None: up to the next keyframe on either side, or to
            the ends of the clip.
        held_out: Whether to serve the held-out frames instead, each with its own label and the keyframes near it.

    Raises:
        DataError: If no labelled frame has a neighbour.

    Example:
        >>> clip = Clip("a", tuple(Frame(str(i), Path(f"{i}.png")) for i in range(10)), keyframes=(2, 6))
        >>> label_map = LabelMap((0,), ("road",), ((128, 64, 128),))
        >>> items = WindowItems([clip], label_map)
        >>> len(items), items.span(clip, 2), items.span(clip, 6)
        (2, (0, 6), (2, 9))
    """

    def __init__(
        self, clips: Sequence[Clip], label_map: LabelMap, radius: int | None = None, held_out: bool = False
    ) -> None:
        super().__init__(label_map)
        self.radius = radius
        every = [(clip, index) for clip in clips for index in (clip.held_out if held_out else clip.keyframes)]
        # Numbered among all keyframes, as the folds of teachers are.
        self.numbers = [i for i, (clip, _) in enumerate(every) if len(clip.frames) > 1]
        self.windows = [every[i] for i in self.numbers]
        if not self.windows:
            raise DataError(
                "a refiner learns from the neighbours of labelled frames, and no labelled frame has any: expected "
                "clips of two frames or more, or methods other than refine"
            )

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key: int | Draw) -> ClipBatch:
        place = key.index if isinstance(key, Draw) else key
        clip, target = self.windows[place]
        first, last = self.span(clip, target)
        near = clip.keyframes[bisect_left(clip.keyframes, first) : bisect_right(clip.keyframes, last)]
        labels = sorted({target, *near})
        return replace(self._read(clip, (first, last), (target, target + 1), labels, ()), number=self.numbers[place])

    def span(self, clip: Clip, target: int) -> tuple[int, int]:
        """Return the first and the last frame of the window of a labelled frame, as indices in the clip."""
        end = len(clip.frames) - 1
        if self.radius is not None:
            return max(0, target - self.radius), min(end, target + self.radius)
        before, after = bisect_left(clip.keyframes, target), bisect_right(clip.keyframes, target)
        first = clip.keyframes[before - 1] if before else 0
        return first, clip.keyframes[after] if after < len(clip.keyframes) else end


class IntervalItems(ClipItems):
    """The intervals of all clips.

    Args:
        clips: The clips.
        label_map: Classes of the labels.
        with_held_out: Whether to serve held-out labels, for scoring.
        done: Intervals to leave out, each as (clip, first query frame, number of query frames).
        shard: Which part of the intervals to serve, as (number from 0, number of parts); the parts do not depend on
            ``done``.

    Example:
        >>> clip = Clip("a", tuple(Frame(str(i), Path(f"{i}.png")) for i in range(10)), keyframes=(2, 6))
        >>> label_map = LabelMap((0,), ("road",), ((128, 64, 128),))
        >>> items = IntervalItems([clip], label_map, done=frozenset({("a", 0, 2)}))
        >>> len(items), items.costs
        (2, [4, 4])
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        label_map: LabelMap,
        with_held_out: bool = False,
        done: frozenset[tuple[str, int, int]] = frozenset(),
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__(label_map)
        self.with_held_out = with_held_out
        every = [interval for clip in clips for interval in intervals(clip)]
        mine = distribute([interval.stop - interval.start for interval in every], shard[1])[shard[0]]
        self.intervals = [every[i] for i in mine if _name(every[i]) not in done]

    @property
    def costs(self) -> list[int]:
        """Number of query frames of each interval."""
        return [interval.stop - interval.start for interval in self.intervals]

    def __len__(self) -> int:
        return len(self.intervals)

    def __getitem__(self, key: int) -> ClipBatch:
        interval = self.intervals[key]
        queries = (interval.start, interval.stop)
        labelled = interval.clip.held_out
        held_out = labelled[bisect_left(labelled, queries[0]) : bisect_left(labelled, queries[1])]
        if not self.with_held_out:
            held_out = ()
        return self._read(interval.clip, interval.span, queries, interval.keyframes, held_out)


# To hold out a keyframe takes as long as to label one and a half intervals, unless the flow is kept for labelling, as
# that of some tens of keyframes is. So a third of many keyframes takes half as long as to label all frames.
FEWEST_HELD_OUT = 60


class HeldOutItems(ClipItems):
    """Keyframes between two others as if they had no label, to check what is propagated to them from these two.

    An item is the stretch between the two other keyframes; the label of the one between them is in ``held_out``. Of
    more than :data:`FEWEST_HELD_OUT` keyframes, a third is held out, but at least so many, evenly spread.

    Args:
        clips: The clips; those with fewer than three keyframes have nothing to hold out.
        label_map: Classes of the labels.

    Example:
        >>> clip = Clip("a", tuple(Frame(str(i), Path(f"{i}.png")) for i in range(9)), keyframes=(0, 4, 8))
        >>> len(HeldOutItems([clip], LabelMap((0,), ("road",), ((128, 64, 128),))))
        1
    """

    def __init__(self, clips: Sequence[Clip], label_map: LabelMap) -> None:
        super().__init__(label_map)
        between = [(clip, i) for clip in clips for i in range(1, len(clip.keyframes) - 1)]
        count = min(len(between), max(FEWEST_HELD_OUT, len(between) // 3))
        self.held_out = [between[(2 * i + 1) * len(between) // (2 * count)] for i in range(count)]

    def __len__(self) -> int:
        return len(self.held_out)

    def __getitem__(self, key: int) -> ClipBatch:
        clip, number = self.held_out[key]
        ends = (clip.keyframes[number - 1], clip.keyframes[number + 1])
        return self._read(clip, ends, ends, ends, (clip.keyframes[number],))


def _name(interval: Interval) -> tuple[str, int, int]:
    return interval.clip.name, interval.start, interval.stop - interval.start


def _nbytes(frame: Tensor) -> int:
    return frame.nbytes


def _label_or_nothing(frame: Frame, image: Tensor, label_map: LabelMap) -> Tensor:
    size = (image.shape[1], image.shape[2])
    if frame.label is None:
        return torch.full(size, IGNORE_INDEX, dtype=torch.uint8)
    return read_frame_label(frame, label_map, size)
