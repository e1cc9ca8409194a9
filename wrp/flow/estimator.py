"""The interface of all flow estimators."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wrp.flow.padding import Padding
from wrp.flow.prefetch import prefetch
from wrp.flow.resizing import Resizer, resize_flow
from wrp.flow.source import Way
from wrp.geometry.backends.cpu import join
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.warp import Sampler, compose
from wrp.structures import ClipBatch, FramePair

# Neighbouring flows may be estimated in one thread and direct flows in another: their counts are added in turn.
_counting = threading.Lock()


class FlowEstimator(nn.Module, ABC):
    """Base class of flow estimators, from two batches of frames to the flow between them.

    Subclasses implement :meth:`estimate` and :attr:`signature`, and set :attr:`stride` and :attr:`smallest`; frames
    arrive there at the working resolution and padded. Estimators are frozen: no gradients, and nothing of them in the
    ``state_dict`` of the module that uses them.

    Args:
        scale: Working resolution: frames are magnified by this factor, in (0, 4], and flow is scaled back. 0.5 is about
            four times as fast; 2 takes about four times as long and is finer.
        pairs_per_call: Neighbouring pairs that :meth:`neighbours` estimates in one call; more use a GPU better.

    Attributes:
        stride: Height and width are padded to multiples of it.
        smallest: Least height and width in pixels.
        prefetch: Whether :meth:`neighbours` estimates in a thread of its own while the last flow is worked on.
        any_frames: Whether there is flow between frames that are no neighbours.
        sparse: Whether pixels without flow are to be expected.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> class Still(FlowEstimator):
        ...     signature = "still"
        ...     def estimate(self, frames_s, frames_t, pairs):
        ...         return torch.zeros(len(frames_s), 2, *frames_s.shape[2:])
        >>> frames = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
        >>> Still()(frames, frames).shape
        torch.Size([1, 2, 4, 6])
    """

    stride: int = 1
    smallest: int = 1
    prefetch: bool = False
    any_frames: bool = True
    sparse: bool = False

    def __init__(self, scale: float = 1.0, pairs_per_call: int = 1) -> None:
        super().__init__()
        if not 0 < scale <= 4:
            raise ValueError(f"the working resolution of flow must be in (0, 4], got scale={scale}")
        if pairs_per_call < 1:
            raise ValueError(f"pairs_per_call must be at least 1, got {pairs_per_call}")
        self.scale = float(scale)
        self.pairs_per_call = pairs_per_call
        self._seconds = 0.0
        self._estimates = 0
        self._resize = Resizer()

    @property
    def seconds(self) -> float:
        """Time spent in estimation since construction, by the clock of the host."""
        return self._seconds

    @property
    def estimates(self) -> int:
        """How many flows were estimated since construction: two for a pair of frames in both directions."""
        return self._estimates

    @property
    def reads(self) -> set[Path]:
        """The folders that flow is read from, with links resolved: nothing may be written there."""
        return set()

    @abstractmethod
    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Estimate F_{s→t}.

        Args:
            frames_s: (B, 3, H, W) uint8 RGB.
            frames_t: The same shape and dtype.
            pairs: Names of the B pairs, if they are known.

        Returns:
            (B, 2, H, W) float32 in pixels, on the frames' device.
        """

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        """Estimate F_{s→t} from an initial flow.

        By default, the flow that remains between s and t warped along the initial flow is estimated and composed with
        it. Subclasses whose method can start from an initial flow override this.

        Args:
            frames_s: (B, 3, H, W) uint8 RGB.
            frames_t: The same shape and dtype.
            start: The initial flow, (B, 2, H, W) float32 in pixels.

        Returns:
            (B, 2, H, W) float32 in pixels, on the frames' device.
        """
        [warped] = Sampler(frames_t).along(start)
        warped = warped.round().clamp(0, 255).to(torch.uint8)
        return compose(self.estimate(frames_s, warped, None).float(), start)

    def magnification(self, height: int, width: int) -> float:
        """Return the working resolution for frames of a height and width in pixels: :attr:`scale`."""
        return self.scale

    @property
    @abstractmethod
    def signature(self) -> str:
        """Everything on which the flow depends besides the frames, as text: kept flow of another one is not used."""

    @torch.no_grad()
    def forward(
        self,
        frames_s: Tensor,
        frames_t: Tensor,
        pairs: Sequence[FramePair] | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Check the frames and estimate F_{s→t}.

        Args:
            frames_s: (B, 3, H, W) uint8 RGB.
            frames_t: The same shape and dtype.
            pairs: Names of the B pairs, for estimators that read flow from files.
            start: An initial flow, (B, 2, H, W) in pixels, for frames that are far from one another.

        Returns:
            (B, 2, H, W) float32, x and y in pixels.

        Raises:
            ValueError: If the two differ in shape, or are no uint8 RGB images.
        """
        if frames_s.shape != frames_t.shape or frames_s.ndim != 4 or frames_s.shape[1] != 3:
            raise ValueError(
                f"flow needs two batches (B, 3, H, W) of one shape, got {tuple(frames_s.shape)} and "
                f"{tuple(frames_t.shape)}"
            )
        if frames_s.dtype != torch.uint8 or frames_t.dtype != torch.uint8:
            raise ValueError(f"flow needs uint8 frames in 0 … 255, got {frames_s.dtype} and {frames_t.dtype}")
        started = time.perf_counter()
        height, width = frames_s.shape[-2:]
        scale = self.magnification(height, width)
        working = (max(1, round(height * scale)), max(1, round(width * scale)))
        padding = Padding(working, self.stride, self.smallest)
        frames_s, frames_t = (padding.pad(self._resize(frames, working)) for frames in (frames_s, frames_t))
        # Flow that is kept must not depend on the precision of the first caller.
        with torch.autocast(frames_s.device.type, enabled=False):
            if start is None:
                flow = self.estimate(frames_s, frames_t, pairs)
            else:
                flow = self.estimate_from(frames_s, frames_t, padding.pad(resize_flow(start, working)))
            flow = resize_flow(padding.unpad(flow.float()), (height, width))
        with _counting:
            self._seconds += time.perf_counter() - started
            self._estimates += len(flow)
        return flow

    def between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        """Estimate both flows between frames i and i + 1 for each index i, all in one call.

        Args:
            batch: Frames of one clip.
            indices: Indices i in the clip.

        Returns:
            One pair of flows (1, 2, H, W) float32 in pixels for each index.
        """
        first, second = ([batch.frame(i + step)[None] for i in indices] for step in (0, 1))
        names = [(batch.stems[i - batch.first], batch.stems[i + 1 - batch.first]) for i in indices]
        pairs = [FramePair(batch.clip, a, b) for a, b in names] + [FramePair(batch.clip, b, a) for a, b in names]
        flow_fw, flow_bw = self(join(first + second), join(second + first), pairs).chunk(2)
        return [NeighbourFlow(fw[None], bw[None]) for fw, bw in zip(flow_fw, flow_bw, strict=True)]

    def neighbours(self, batch: ClipBatch, indices: Iterable[int]) -> Iterator[NeighbourFlow]:
        """Yield both flows between frames i and i + 1 for each index i, estimated a few pairs at a time.

        Args:
            batch: Frames of one clip.
            indices: Indices i in the clip.

        Yields:
            One pair of flows (1, 2, H, W) float32 in pixels for each index.
        """
        todo = list(indices)
        calls = [todo[start : start + self.pairs_per_call] for start in range(0, len(todo), self.pairs_per_call)]
        found = (self.between(batch, call) for call in calls)
        for flows in prefetch(found) if self.prefetch else found:
            yield from flows

    def direct(self, batch: ClipBatch, index: int, far: int, start: Tensor, way: Way) -> Tensor:
        """Estimate the flow between two frames from the flow that is composed of the neighbouring ones between them.

        Args:
            batch: Frames of one clip, with all frames between the two.
            index: Index in the clip of the frame from which the flow leads.
            far: Index of the frame to which it leads.
            start: The composed flow, (1, 2, H, W) float32 in pixels. It must follow from the frames and ``way``: a
                cache finds the direct flow by these.
            way: How the composed flow has grown.

        Returns:
            (1, 2, H, W) float32 in pixels.
        """
        flow: Tensor = self(batch.frame(index)[None], batch.frame(far)[None], start=start)
        return flow
