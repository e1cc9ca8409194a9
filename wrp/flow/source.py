"""What walks along a clip need of optical flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from wrp.geometry.composed import NeighbourFlow
from wrp.structures import ClipBatch, FramePair


class FlowSource(Protocol):
    """Flow between neighbours of a stretch and, where there is such, between any two frames."""

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
        """Both flows between frames i and i + 1 of a stretch for each of the given i."""

    def neighbours(self, batch: ClipBatch, indices: Iterable[int]) -> Iterator[NeighbourFlow]:
        """The same, a few pairs at a time."""
