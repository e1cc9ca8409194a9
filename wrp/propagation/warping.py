"""Warping: the labels of keyframes, warped into each frame of an interval at a constant cost per frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from wrp.flow.direct import direct_flow, without_drift
from wrp.flow.prefetch import prefetch
from wrp.flow.source import FlowSource
from wrp.flow.stack import DiskStack
from wrp.geometry.composed import NeighbourFlow, identity_flow, prepend_flow
from wrp.geometry.cycle import image_of, warp_keyframe
from wrp.geometry.fusion import WarpedLabels, gather, join_sources
from wrp.structures import ClipBatch

# Memory for the warped labels of the later keyframe of an interval, in bytes: 24 frames of 480×360.
STACK_BYTES = 2**25


class KeyframeWarper:
    """Warps the label of one keyframe into the frames next to it, one after the other.

    Each frame gets one source along the composed flow and, if there is flow between any two frames, one along the
    direct flow, see :mod:`wrp.flow.direct`.

    Args:
        batch: Consecutive frames with the keyframe and its label.
        flow: Flow between the frames.
        keyframe: Index of the keyframe in the clip.

    Example:
        >>> import numpy as np
        >>> from wrp.flow.exact import Exact
        >>> images = np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(3)])
        >>> flow = Exact(images, still := np.zeros((2, 2, 8, 8), np.float32), still)
        >>> frames, label = [torch.from_numpy(image).movedim(-1, 0) for image in images], torch.ones(8, 8).byte()
        >>> batch = ClipBatch("street", ["a", "b", "c"], 0, frames, {0: label}, queries=(0, 3))
        >>> [warped.labels.shape for warped in KeyframeWarper(batch, flow, keyframe=0).along(range(1, 3))]
        [torch.Size([1, 8, 8]), torch.Size([1, 8, 8])]
    """

    def __init__(self, batch: ClipBatch, flow: FlowSource, keyframe: int) -> None:
        self._batch = batch
        self._flow = flow
        self._keyframe = keyframe
        self._label = batch.labels[keyframe]
        self._image = image_of(batch.frame(keyframe))
        self._composed = identity_flow(self._label)

    def along(self, indices: range) -> Iterator[WarpedLabels]:
        """Warp the label into these frames, ordered away from the keyframe and starting next to it."""
        neighbours = self._flow.neighbours(self._batch, (min(index, index - indices.step) for index in indices))
        return map(self._go_to, indices, neighbours)

    @torch.no_grad()
    def _go_to(self, index: int, neighbour: NeighbourFlow) -> WarpedLabels:
        onward, homeward = neighbour.towards(1 if index > self._keyframe else -1)
        frame, distance = self._batch.frame(index), abs(index - self._keyframe)
        self._composed = prepend_flow(self._composed, homeward, onward)
        warped = warp_keyframe(self._label, self._image, frame, self._composed, distance)
        if self._flow.any_frames:
            direct = direct_flow(self._composed, self._flow, self._batch, index, self._keyframe, "prepend")
            warped = join_sources([warped, warp_keyframe(self._label, self._image, frame, direct, distance)])
            self._composed = without_drift(self._composed, direct, warped.photometric)
        return warped


@dataclass(frozen=True)
class Sides:
    """The keyframes of an interval, and the frames that each of them is warped into, ordered away from it.

    Attributes:
        earlier: Index of the keyframe before the frames or at their start; None if there is none.
        later: Index of the keyframe behind the frames or at their end; None if there is none.
        onward: Indices of the frames after the earlier keyframe, forward in time.
        homeward: Indices of the frames before the later keyframe, backward in time, without the earlier keyframe.

    Example:
        >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 5, torch.zeros(8, 8, dtype=torch.uint8)
        >>> batch = ClipBatch("street", list("abcde"), 0, frames, {0: label, 4: label}, queries=(0, 5))
        >>> Sides.of(batch)
        Sides(earlier=0, later=4, onward=range(1, 4), homeward=range(3, 0, -1))
    """

    earlier: int | None
    later: int | None
    onward: range
    homeward: range

    @classmethod
    def of(cls, batch: ClipBatch, within: range | None = None) -> Sides:
        """Find the sides of an interval with one or two keyframes.

        Args:
            batch: The interval.
            within: Indices of the wanted frames, beyond which nothing is warped; None: all.
        """
        start, stop = batch.queries
        within = within if within is not None else range(start, stop)
        earlier = max((a for a in batch.labels if a <= start), default=None)
        later = min((a for a in batch.labels if a >= stop - 1 and a != earlier), default=None)
        end = min(within.stop, stop - 1 if later == stop - 1 else stop)
        onward = range(0) if earlier is None else range(earlier + 1, end)
        first = max(within.start, start + 1 if earlier == start else start)
        homeward = range(0) if later is None else range(later - 1, first - 1, -1)
        return cls(earlier, later, onward, homeward)


class FromBothSides:
    """Runs a propagation from each keyframe of an interval and returns the results of both in temporal order.

    The propagation from the later keyframe runs backward in time: all its results are computed first, and kept on disk
    if the interval is long. The propagation from the earlier keyframe then runs along with the frames that are
    requested. Use the object as a context manager.

    Args:
        batch: The interval, with one or two keyframes.
        propagate: The propagation: maps the index of a keyframe and the indices of frames, ordered away from it, to the
            tensors for each frame.
        within: Indices of the frames that will be requested; None: all.

    Example:
        >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 3, torch.zeros(8, 8, dtype=torch.uint8)
        >>> batch = ClipBatch("street", ["a", "b", "c"], 0, frames, {0: label, 2: label}, queries=(0, 3))
        >>> with FromBothSides(batch, lambda keyframe, indices: ([torch.tensor(keyframe)] for _ in indices)) as both:
        ...     both.at(1)
        [[tensor(0)], [tensor(2)]]
    """

    def __init__(
        self,
        batch: ClipBatch,
        propagate: Callable[[int, range], Iterator[list[Tensor]]],
        within: range | None = None,
    ) -> None:
        sides = Sides.of(batch, within)
        self._open = ExitStack()
        self._later = self._open.enter_context(DiskStack(STACK_BYTES))
        self._pushed: list[int] = []
        self._earlier: Iterator[tuple[int, list[Tensor]]] | None = None
        try:
            if sides.later is not None:
                for index, tensors in zip(sides.homeward, propagate(sides.later, sides.homeward), strict=True):
                    self._later.push(tensors)
                    self._pushed.append(index)
            if sides.earlier is not None:
                tensors_of = prefetch(propagate(sides.earlier, sides.onward))
                self._open.callback(tensors_of.close)
                self._earlier = zip(sides.onward, tensors_of, strict=True)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def at(self, index: int) -> list[list[Tensor]]:
        """Return the results for a frame, from the earlier keyframe and then from the later one.

        Args:
            index: Index of the frame in the clip; it must be greater than in the call before.
        """
        made = []
        if self._earlier is not None:
            made.append(next(tensors for at, tensors in self._earlier if at == index))
        while self._pushed and self._pushed[-1] <= index:
            at, tensors = self._pushed.pop(), self._later.pop()
            if at == index:
                made.append(tensors)
        return made


class IntervalWarper:
    """Warps the labels of the keyframes of an interval into its frames. Use the object as a context manager.

    Args:
        batch: An interval with one or two keyframes.
        flow: Flow between its frames; a cached one spares the forward pass the flow of the backward pass.
        within: Indices of the frames that will be requested; None: all.

    Example:
        >>> import numpy as np
        >>> from wrp.flow.exact import Exact
        >>> images = np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(3)])
        >>> flow = Exact(images, still := np.zeros((2, 2, 8, 8), np.float32), still)
        >>> frames, label = [torch.from_numpy(image).movedim(-1, 0) for image in images], torch.ones(8, 8).byte()
        >>> batch = ClipBatch("street", ["a", "b", "c"], 0, frames, {0: label, 2: label}, queries=(0, 3))
        >>> with IntervalWarper(batch, flow) as warper:
        ...     warper.at(1).labels.shape  # one source for each keyframe
        torch.Size([2, 8, 8])
    """

    def __init__(self, batch: ClipBatch, flow: FlowSource, within: range | None = None) -> None:
        def propagate(keyframe: int, indices: range) -> Iterator[list[Tensor]]:
            along = KeyframeWarper(batch, flow, keyframe).along(indices)
            return (list(vars(warped).values()) for warped in along)

        self._both = FromBothSides(batch, propagate, within)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._both.__exit__()

    def at(self, index: int) -> WarpedLabels:
        """Return the labels of the keyframes, warped into one frame.

        Args:
            index: Index of the frame in the clip, not a keyframe; it must be greater than in the call before.

        Returns:
            The sources of one or two keyframes, the earlier first.
        """
        return gather([WarpedLabels(*tensors) for tensors in self._both.at(index)])
