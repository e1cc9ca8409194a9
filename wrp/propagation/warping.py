"""Walking away from keyframes: their labels, warped into each frame of an interval at a constant cost per frame."""

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
    """The labels of one keyframe, warped into the frames next to it, one after the other.

    One source along the composed flow and, where there is flow between any frames, one along the direct flow, see
    :mod:`wrp.flow.direct`.

    Args:
        batch: A stretch that holds the keyframe, its label, and the frames.
        flow: Flow between its frames.
        keyframe: Index of the keyframe in the clip.
    """

    def __init__(self, batch: ClipBatch, flow: FlowSource, keyframe: int) -> None:
        self._batch = batch
        self._flow = flow
        self._keyframe = keyframe
        self._label = batch.labels[keyframe]
        self._frame = batch.frame(keyframe)
        self._image = image_of(self._frame)
        self._composed = identity_flow(self._label)

    def along(self, indices: range) -> Iterator[WarpedLabels]:
        """Warp into these frames, given in the order of the walk, which starts beside the keyframe."""
        neighbours = self._flow.neighbours(self._batch, (min(index, index - indices.step) for index in indices))
        return map(self._go_to, indices, neighbours)

    @torch.no_grad()
    def _go_to(self, index: int, neighbour: NeighbourFlow) -> WarpedLabels:
        onward, homeward = neighbour.towards(1 if index > self._keyframe else -1)
        frame, distance = self._batch.frame(index), abs(index - self._keyframe)
        self._composed = prepend_flow(self._composed, homeward, onward)
        warped = warp_keyframe(self._label, self._image, frame, self._composed, distance)
        if self._flow.any_frames:
            direct = direct_flow(self._composed, self._flow, frame, self._frame)
            warped = join_sources([warped, warp_keyframe(self._label, self._image, frame, direct, distance)])
            self._composed = without_drift(self._composed, direct, warped.photometric)
        return warped


@dataclass(frozen=True)
class Sides:
    """The keyframes of an interval and the frames that each of them labels, in the order of the walk away from it.

    Attributes:
        earlier: Index of the keyframe before the frames, or at their start; None if there is none.
        later: Index of the keyframe behind the frames, or at their end; None if there is none.
        onward: Frames from the earlier keyframe on, forward in time.
        homeward: Frames from the later keyframe on, backward in time, the earlier keyframe left out.
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
            within: The frames that are wanted: no walk goes beyond them. None: all.
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
    """What walks away from the keyframes of an interval make of each frame, in temporal order.

    The walk from the later keyframe runs backward in time, so what it makes is collected first, and goes to disk when
    the interval is long; the walk from the earlier keyframe then runs along with the frames that are asked for. Use it
    as a context manager.

    Args:
        batch: The interval, with one or two keyframes.
        walk: From a keyframe and frames next to it, in the order of the walk, to the tensors made for each.
        within: The frames that will be asked for; None: all.
    """

    def __init__(
        self,
        batch: ClipBatch,
        walk: Callable[[int, range], Iterator[list[Tensor]]],
        within: range | None = None,
    ) -> None:
        sides = Sides.of(batch, within)
        self._open = ExitStack()
        self._later = self._open.enter_context(DiskStack(STACK_BYTES))
        self._pushed: list[int] = []
        self._earlier: Iterator[tuple[int, list[Tensor]]] | None = None
        try:
            if sides.later is not None:
                for index, tensors in zip(sides.homeward, walk(sides.later, sides.homeward), strict=True):
                    self._later.push(tensors)
                    self._pushed.append(index)
            if sides.earlier is not None:
                tensors_of = prefetch(walk(sides.earlier, sides.onward))
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
        """What was made for a frame, later than those before: by the walk from the earlier keyframe, then the later."""
        made = []
        if self._earlier is not None:
            made.append(next(tensors for at, tensors in self._earlier if at == index))
        while self._pushed and self._pushed[-1] <= index:
            at, tensors = self._pushed.pop(), self._later.pop()
            if at == index:
                made.append(tensors)
        return made


class IntervalWarper:
    """The labels of the keyframes of an interval, warped into its frames. Use it as a context manager.

    Args:
        batch: An interval with one or two keyframes.
        flow: Flow between its frames; the walk forward finds what the walk backward had estimated.
        within: The frames that will be asked for; None: all.
    """

    def __init__(self, batch: ClipBatch, flow: FlowSource, within: range | None = None) -> None:
        def walk(keyframe: int, indices: range) -> Iterator[list[Tensor]]:
            along = KeyframeWarper(batch, flow, keyframe).along(indices)
            return (list(vars(warped).values()) for warped in along)

        self._both = FromBothSides(batch, walk, within)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._both.__exit__()

    def at(self, index: int) -> WarpedLabels:
        """Warp into one frame that is no keyframe; frames are asked for in temporal order, each once.

        Returns:
            The sources of one or two keyframes, the earlier first.
        """
        return gather([WarpedLabels(*tensors) for tensors in self._both.at(index)])
