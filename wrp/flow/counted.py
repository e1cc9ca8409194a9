"""Flow for the work on one interval: what is not finite and cuts are noted, and cached flow is kept until the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from typing_extensions import Self

from wrp.flow.cache import FlowCache
from wrp.flow.source import Way
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.cuts import is_lost
from wrp.geometry.finite import NotFinite
from wrp.structures import ClipBatch, FramePair


class CountedFlow:
    """A :class:`~wrp.flow.source.FlowSource` over a cache that other intervals may use at the same time.

    Use it as a context manager: temporary flows of the clip are kept until the end of the block.

    Args:
        flow: The cache from which the flow comes.
        clip: Name of the clip.
        count: Counts the pixels whose flow is not finite.

    Example:
        >>> from wrp.flow.dis import DIS
        >>> frames = list(torch.zeros(2, 3, 32, 48, dtype=torch.uint8))
        >>> batch = ClipBatch("clip", stems=["0", "1"], first=0, frames=frames, labels={}, queries=(0, 2))
        >>> count = NotFinite()
        >>> with CountedFlow(FlowCache(DIS()), "clip", count) as flow:
        ...     [neighbour] = flow.neighbours(batch, [0])
        >>> neighbour.flow_fw.shape, count.take(), flow.cuts()
        (torch.Size([1, 2, 32, 48]), (0, 0.0), [])
    """

    def __init__(self, flow: FlowCache, clip: str, count: NotFinite) -> None:
        self.any_frames = flow.any_frames
        self._flow = flow
        self._clip = clip
        self._count = count
        self._lost: dict[int, Tensor] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self._held.enter_context(self._flow.held(self._clip))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def __call__(
        self,
        frames_s: Tensor,
        frames_t: Tensor,
        pairs: Sequence[FramePair] | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Estimate F_{s→t}, see :meth:`wrp.flow.estimator.FlowEstimator.forward`."""
        flow: Tensor = self._flow(frames_s, frames_t, pairs, start)
        self._count.known(flow, 1)
        return flow

    def between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        """Return both flows between frames i and i + 1 for each index i in the clip."""
        return list(map(self._noted, indices, self._flow.between(batch, indices)))

    def neighbours(self, batch: ClipBatch, indices: Iterable[int]) -> Iterator[NeighbourFlow]:
        """Yield both flows between frames i and i + 1 for each index i in the clip, a few pairs at a time."""
        indices = list(indices)
        return map(self._noted, indices, self._flow.neighbours(batch, indices))

    def direct(self, batch: ClipBatch, index: int, far: int, start: Tensor, way: Way) -> Tensor:
        """Return the direct flow between two frames, see :meth:`wrp.flow.estimator.FlowEstimator.direct`."""
        flow = self._flow.direct(batch, index, far, start, way)
        self._count.known(flow, 1)
        return flow

    def cuts(self) -> list[int]:
        """Return the indices of the frames behind which there was a cut, so far; waits for the device."""
        if not self._lost:
            return []
        indices = sorted(self._lost)
        lost = torch.stack([self._lost[index] for index in indices]).tolist()
        return [index for index, here in zip(indices, lost, strict=True) if here]

    def _noted(self, index: int, flow: NeighbourFlow) -> NeighbourFlow:
        for one in (flow.flow_fw, flow.flow_bw):
            self._count.known(one, 1)
        self._lost[index] = is_lost(flow.flow_fw[..., :1, :1]).flatten()[0]
        return flow
