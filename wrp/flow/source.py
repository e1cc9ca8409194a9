"""The optical flow that propagation along a clip needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

from torch import Tensor

from wrp.geometry.composed import NeighbourFlow
from wrp.structures import ClipBatch, FramePair

Way = Literal["append", "prepend"]
"""How a composed flow has grown, see :mod:`wrp.geometry.composed`: the two ways give different flows."""


class FlowSource(Protocol):
    """Flow between neighbouring frames of a clip and, where there is such, between any two frames.

    :class:`~wrp.flow.estimator.FlowEstimator` and :class:`~wrp.flow.counted.CountedFlow` have these methods.

    Example:
        >>> from wrp.flow.dis import DIS
        >>> flow: FlowSource = DIS()
        >>> flow.any_frames
        True
    """

    @property
    def any_frames(self) -> bool:
        """Whether there is flow between frames that are no neighbours."""

    def __call__(
        self,
        frames_s: Tensor,
        frames_t: Tensor,
        pairs: Sequence[FramePair] | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Estimate F_{s→t}, see :meth:`wrp.flow.estimator.FlowEstimator.forward`."""

    def between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        """Return both flows between frames i and i + 1 for each index i in the clip."""

    def neighbours(self, batch: ClipBatch, indices: Iterable[int]) -> Iterator[NeighbourFlow]:
        """Yield both flows between frames i and i + 1 for each index i in the clip, a few pairs at a time."""

    def direct(self, batch: ClipBatch, index: int, far: int, start: Tensor, way: Way) -> Tensor:
        """Return the direct flow between two frames, see :meth:`wrp.flow.estimator.FlowEstimator.direct`."""
