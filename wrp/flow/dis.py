"""DIS optical flow (Kroeger et al., ECCV 2016) of OpenCV: fast, without weights, on the CPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from wrp.errors import check_choice
from wrp.flow.estimator import FlowEstimator
from wrp.geometry.backends.cpu import reused, workers
from wrp.structures import FramePair

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    "fine": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

# The coarsest level at which an initial flow is used: a quarter of the working resolution.
GUIDED_LEVELS = 2

# Smaller frames are magnified to so many pixels by default, but at most twice.
WORKING_PIXELS = 4 * 480 * 360


class DIS(FlowEstimator):
    """OpenCV's DIS optical flow.

    Args:
        preset: OpenCV's ``ultrafast``, ``fast`` or ``medium``; or ``fine`` (ours), ``medium`` at full resolution:
            OpenCV's stops at half of the resolution and loses what is thin. experiments/propagation/motion.py compares
            them.
        scale: Working resolution, see :class:`FlowEstimator`; None: small frames are magnified to 691 200 pixels,
            but at most twice.
        pairs_per_call: See :class:`FlowEstimator`. More than one keep all cores busy.
        threads: Pairs estimated at a time, and threads of OpenCV; None: as many as OpenCV is set to. OpenCV has one
            setting per process; it is put back afterwards.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> frame = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> flow = DIS()(frame, frame.roll(3, dims=3))
        >>> flow.shape, round(flow[:, 0].median().item())
        (torch.Size([1, 2, 64, 96]), 3)
    """

    # OpenCV raises below 32 pixels, and where no side is longer than 91 the presets but "fine" read what an estimate
    # before has left in their buffers (OpenCV 5.0.0.93).
    smallest = 96
    # OpenCV releases the interpreter's lock, so one core estimates while another composes.
    prefetch = True

    def __init__(
        self, preset: str = "fine", scale: float | None = None, pairs_per_call: int = 4, threads: int | None = None
    ) -> None:
        super().__init__(1.0 if scale is None else scale, pairs_per_call)
        check_choice("DIS preset", preset, PRESETS, kind=ValueError)
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.preset = preset
        self.magnify = scale is None
        self.threads = threads

    @property
    def signature(self) -> str:
        """Preset, working resolution and OpenCV's version."""
        scale = f"to {WORKING_PIXELS} pixels" if self.magnify else self.scale
        return f"DIS preset={self.preset} scale={scale} opencv={cv2.__version__}"

    def magnification(self, height: int, width: int) -> float:
        """Return the working resolution for frames of a height and width in pixels."""
        if not self.magnify:
            return self.scale
        return min(max(math.sqrt(WORKING_PIXELS / (height * width)), 1.0), 2.0)

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Estimate the flow of each pair on the CPU; see :class:`FlowEstimator`."""
        return self._estimate(frames_s, frames_t, [None] * len(frames_s))

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        """Estimate the flow of each pair from an initial flow; see :class:`FlowEstimator`.

        Each level of the pyramid starts from the initial flow as well as from the level below it.
        """
        size = max(start.shape[2:])  # OpenCV reads wherever the initial flow leads, also beyond the frame's memory
        guesses = start.nan_to_num(size, size, -size).clamp(-size, size).permute(0, 2, 3, 1).cpu().contiguous().numpy()
        return self._estimate(frames_s, frames_t, list(guesses))

    def _estimate(self, frames_s: Tensor, frames_t: Tensor, guesses: Sequence[np.ndarray | None]) -> Tensor:
        flows = reused(len(frames_s), 2, *frames_s.shape[2:])
        before = cv2.getNumThreads()
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        try:
            # Pairs in parallel take less time than one after the other, each in several threads.
            pool = workers("wrp-dis", min(self.threads or before, len(flows)))
            for _ in pool.map(self._estimate_one, frames_s.cpu(), frames_t.cpu(), guesses, flows):
                pass
        finally:
            if self.threads is not None:
                cv2.setNumThreads(before)
        return flows.to(frames_s.device)

    def _estimate_one(self, frame_s: Tensor, frame_t: Tensor, guess: np.ndarray | None, flow: Tensor) -> None:
        dis = _objects.get(self.preset, guess is not None, *flow.shape[1:])
        # The stubs lack the call without an initial flow.
        found = dis.calc(grey_image(frame_s), grey_image(frame_t), guess)  # type: ignore[arg-type]
        cv2.mixChannels([found], [flow[0].numpy(), flow[1].numpy()], [0, 0, 1, 1])


def create_dis(preset: str, guided: bool = False) -> cv2.DISOpticalFlow:
    """Create OpenCV's object of a preset.

    Args:
        preset: See :class:`DIS`.
        guided: Whether it is to start from an initial flow.

    Example:
        >>> create_dis("fine").getFinestScale(), create_dis("medium").getFinestScale()
        (0, 1)
    """
    dis = cv2.DISOpticalFlow.create(PRESETS[preset])
    if preset == "fine":
        dis.setFinestScale(0)
    if guided:
        # Coarser levels would only find the initial flow again, or a wrong one.
        dis.setCoarsestScale(GUIDED_LEVELS)
    return dis


class _Objects(threading.local):
    """The object of OpenCV that each thread used last.

    Objects keep their buffers between calls, which saves a tenth of the time; therefore threads cannot share them, and
    what they estimate for one size depends on what another size has left in them.
    """

    def __init__(self) -> None:
        self.key: tuple[str, bool, int, int] | None = None
        self.dis = cv2.DISOpticalFlow.create()

    def get(self, preset: str, guided: bool, height: int, width: int) -> cv2.DISOpticalFlow:
        if self.key != (preset, guided, height, width):
            self.key = (preset, guided, height, width)
            self.dis = create_dis(preset, guided)
        return self.dis


_objects = _Objects()


def grey_image(frame: Tensor) -> np.ndarray:
    """Convert a frame (3, H, W) uint8 RGB to a grey image (H, W) uint8.

    Example:
        >>> import torch
        >>> grey_image(torch.full((3, 1, 2), 128, dtype=torch.uint8)).tolist()
        [[128, 128]]
    """
    return cv2.cvtColor(cv2.merge([plane.numpy() for plane in frame]), cv2.COLOR_RGB2GRAY)
