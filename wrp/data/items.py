"""What the data modules serve: single frames, labelled frames with neighbours, intervals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
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
from wrp.io.caching import BoundedCache, count_bytes
from wrp.io.images import map_of, read_confidence, read_image, read_label
from wrp.structures import IGNORE_INDEX, Clip, ClipBatch, Frame, FrameBatch, Interval, LabelMap, VideoFrame

# Memory of decoded frames that one loader may keep, in bytes: neighbouring windows share their frames.
FRAME_CACHE_BYTES = 2**28

# A stretch whose frames take more memory than this is read frame by frame while it is worked on, in bytes: 129 frames
# of 480×360, 10 of 2048×1024.
STRETCH_BYTES = 2**26


class FrameItems(Dataset[FrameBatch]):
    """Single frames; batches of one, see :func:`collate_frames`.

    Args:
        frames: Frames with the name of their clip and their index in it.
        label_map: Classes of the labels.
        transform: Augmentation; None serves frames as they are.
        weigh: How much pixels count by the confidence of their propagated label, both (H, W) float32 in [0, 1].
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
            if frame.label is not None:  # what counts nothing has no label; elsewhere one may be guessed
                label = label.masked_fill(weights == 0, IGNORE_INDEX)
        return FrameBatch(image[None], label, [clip], [frame.stem], [index], weights, int(frame.label is None))

    def _read(self, frame: Frame) -> list[Tensor]:
        image = read_image(frame.image)
        label = _label_or_nothing(frame, image, self.label_map)
        if frame.label is None and self.transform is not None:
            return [image, label, torch.full_like(label, 255)]  # a label may be guessed anywhere
        if frame.confidence is None:
            return [image, label]
        confidence = read_confidence(frame.confidence, (label.shape[0], label.shape[1]))
        return [image, label, (confidence * 255).round().to(torch.uint8)]


def collate_frames(items: Sequence[FrameBatch]) -> FrameBatch:
    """Join frames of one size into one batch."""
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
    """Base of the items that are a stretch of a clip: decoded frames are kept while they fit."""

    def __init__(self, label_map: LabelMap) -> None:
        self.label_map = label_map
        self._decoded: BoundedCache[Path | VideoFrame, Tensor] = BoundedCache(FRAME_CACHE_BYTES, _nbytes)
        self._unlabelled: dict[str, bool] = {}

    def _read(
        self,
        clip: Clip,
        span: tuple[int, int],
        queries: tuple[int, int],
        labels: Sequence[int],
        held_out: Sequence[int],
    ) -> ClipBatch:
        first, last = span
        wanted = clip.frames[first : last + 1]
        start = self._frame(wanted[0])
        frames: Sequence[Tensor] | LazyFrames
        if len(wanted) * start.nbytes > STRETCH_BYTES:
            frames = LazyFrames(clip.name, [frame.image for frame in wanted], tuple(start.shape[1:]))
        else:
            frames = [self._frame(frame) for frame in wanted]
            if len(sizes := {tuple(frame.shape[1:]) for frame in frames}) > 1:
                raise DataError(f"clip {clip.name}: its frames have different sizes (H, W): {sorted(sizes)}")
        known = {index: self._label(clip, index) for index in labels}
        return ClipBatch(
            clip=clip.name,
            stems=[frame.stem for frame in clip.frames[first : last + 1]],
            first=first,
            frames=frames,
            labels=known,
            queries=queries,
            held_out={index: self._label(clip, index) for index in held_out},
            unlabelled=not any(map(has_class, known.values())) and self._is_unlabelled(clip),
        )

    def _is_unlabelled(self, clip: Clip) -> bool:
        """Whether no keyframe of a clip has a pixel with a class; asked where those of a stretch have none."""
        if clip.name not in self._unlabelled:
            self._unlabelled[clip.name] = not any(has_class(self._label(clip, keyframe)) for keyframe in clip.keyframes)
        return self._unlabelled[clip.name]

    def _frame(self, frame: Frame) -> Tensor:
        return self._decoded.get(frame.image, lambda: read_image(frame.image))

    def _label(self, clip: Clip, index: int) -> Tensor:
        frame = clip.frames[index]
        return _label_or_nothing(frame, self._frame(frame), self.label_map)


class LazyFrames:
    """The frames of a long stretch, read when they are asked for; no Sequence, which Lightning would read through.

    Args:
        clip: Name of the clip, for the message.
        paths: The images.
        size: Height and width that all of them must have.
    """

    def __init__(self, clip: str, paths: Sequence[Path | VideoFrame], size: tuple[int, ...]) -> None:
        self.clip = clip
        self.paths = list(paths)
        self.size = size
        self._start()

    def _start(self) -> None:
        # Flow, evidence and the teacher ask for one frame shortly after one another, each in its own thread.
        self._decoded: BoundedCache[int, Tensor] = BoundedCache(STRETCH_BYTES, _nbytes)
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What goes from a loader's process to the next: no decoded frames."""
        return {"clip": self.clip, "paths": self.paths, "size": self.size}

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
        return frame


class WindowItems(ClipItems):
    """Each keyframe with its neighbours on both sides and the other keyframes among them; clips of one frame have none.

    Args:
        clips: The clips.
        label_map: Classes of the labels.
        hidden: Whether to serve the held-out frames instead, each with its own label and the keyframes around it.
        radius: Neighbours on each side; None: up to the next keyframe on either side, or to the ends of the clip.

    Raises:
        DataError: If no clip has a neighbour to offer.
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
                "a refiner learns from the frames around labelled ones, and no labelled frame has any: expected clips "
                "of two frames or more, or methods other than refine"
            )

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key: int | Draw) -> ClipBatch:
        place = key.index if isinstance(key, Draw) else key
        clip, target = self.windows[place]
        first, last = self.span(clip, target)
        labels = sorted({target, *(keyframe for keyframe in clip.keyframes if first <= keyframe <= last)})
        return replace(self._read(clip, (first, last), (target, target + 1), labels, ()), number=self.numbers[place])

    def span(self, clip: Clip, target: int) -> tuple[int, int]:
        """The first and the last frame of a window."""
        end = len(clip.frames) - 1
        if self.radius is not None:
            return max(0, target - self.radius), min(end, target + self.radius)
        before = [keyframe for keyframe in clip.keyframes if keyframe < target]
        after = [keyframe for keyframe in clip.keyframes if keyframe > target]
        return before[-1] if before else 0, after[0] if after else end


class IntervalItems(ClipItems):
    """The intervals of all clips.

    Args:
        clips: The clips.
        label_map: Classes of the labels.
        with_hidden: Whether to serve held-out labels, for scoring.
        done: Intervals (clip, first target, number of targets) to leave out.
        shard: Which share of the intervals to serve, (number from 0, how many there are); shares do not depend on what
            is done.
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
        """Frames of each interval."""
        return [interval.stop - interval.start for interval in self.intervals]

    def __len__(self) -> int:
        return len(self.intervals)

    def __getitem__(self, key: int) -> ClipBatch:
        interval = self.intervals[key]
        queries = (interval.start, interval.stop)
        held_out = [i for i in interval.clip.held_out if i in range(*queries)] if self.with_held_out else ()
        return self._read(interval.clip, interval.span, queries, interval.keyframes, held_out)


class HeldOutItems(ClipItems):
    """Each keyframe between two others as if it had no label: what its neighbours say there can be checked.

    A batch is the stretch between the two other keyframes; the label that was held out is among ``hidden``.

    Args:
        clips: The clips; those with fewer than three keyframes have nothing to hold out.
        label_map: Classes of the labels.
    """

    def __init__(self, clips: Sequence[Clip], label_map: LabelMap) -> None:
        super().__init__(label_map)
        self.held_out = [(clip, i) for clip in clips for i in range(1, len(clip.keyframes) - 1)]

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
    return read_label(frame.label, map_of(frame, label_map), size)
