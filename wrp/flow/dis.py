"""DIS optical flow (Kroeger et al., ECCV 2016) of OpenCV: fast, without weights, on the CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
from torch import Tensor

from wrp.flow.estimator import FlowEstimator
from wrp.ops.cpu import reused
from wrp.types import FramePair

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DIS(FlowEstimator):
    """OpenCV's DIS optical flow.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.
        scale: Working resolution, see :class:`FlowEstimator`.
        pairs_per_call: See :class:`FlowEstimator`. More than one keep all cores busy.
        threads: Pairs estimated at a time, and threads of OpenCV; None: as many as OpenCV is set to. OpenCV has one
            setting per process; it is put back afterwards.

    Raises:
        ValueError: If an argument is out of its range.
    """

    # DIS builds a pyramid of 8-pixel patches and raises on smaller frames.
    smallest = 32
    # OpenCV lets go of the interpreter, so one core estimates while the other composes.
    ahead = True

    def __init__(
        self, preset: str = "medium", scale: float = 1.0, pairs_per_call: int = 4, threads: int | None = None
    ) -> None:
        super().__init__(scale, pairs_per_call)
        if preset not in PRESETS:
            raise ValueError(f"unknown DIS preset {preset!r}, expected one of {', '.join(PRESETS)}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.preset = preset
        self.threads = threads

    @property
    def signature(self) -> str:
        """Preset, working resolution and OpenCV's version."""
        return f"DIS preset={self.preset} scale={self.scale} opencv={cv2.__version__}"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Flow of each pair on the CPU; see :class:`FlowEstimator`."""
        flows = reused(len(frames_s), 2, *frames_s.shape[2:])
        before = cv2.getNumThreads()
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        try:
            # Pairs side by side are done sooner than one after the other, each in several threads.
            pool = _workers(os.getpid(), min(self.threads or before, len(flows)))
            for _ in pool.map(self._estimate_one, frames_s.cpu(), frames_t.cpu(), flows):
                pass
        finally:
            if self.threads is not None:
                cv2.setNumThreads(before)
        return flows.to(frames_s.device)

    def _estimate_one(self, frame_s: Tensor, frame_t: Tensor, flow: Tensor) -> None:
        dis = _objects.get(self.preset, *flow.shape[1:])
        # The stubs know no call without a flow to start from.
        found = dis.calc(_grey(frame_s), _grey(frame_t), None)  # type: ignore[call-overload]
        cv2.mixChannels([found], [flow[0].numpy(), flow[1].numpy()], [0, 0, 1, 1])


@lru_cache(maxsize=4)
def _workers(process: int, threads: int) -> ThreadPoolExecutor:
    # The threads of a pool do not come along into a forked process.
    return ThreadPoolExecutor(threads, "wrp-dis")


class _Objects(threading.local):
    """The last of OpenCV's objects of each thread.

    They keep their buffers between calls, which saves a tenth of the time; therefore threads cannot share them, and
    what they estimate for one size depends on what another size has left in them.
    """

    def __init__(self) -> None:
        self.key: tuple[str, int, int] | None = None
        self.dis = cv2.DISOpticalFlow.create()

    def get(self, preset: str, height: int, width: int) -> cv2.DISOpticalFlow:
        if self.key != (preset, height, width):
            self.key = (preset, height, width)
            self.dis = cv2.DISOpticalFlow.create(PRESETS[preset])
        return self.dis


_objects = _Objects()


def _grey(frame: Tensor) -> np.ndarray:
    """Grey image (H, W) uint8 of one frame (3, H, W)."""
    return cv2.cvtColor(cv2.merge([plane.numpy() for plane in frame]), cv2.COLOR_RGB2GRAY)
