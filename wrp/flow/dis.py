"""DIS optical flow (Kroeger et al., ECCV 2016) of OpenCV: fast, without weights, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.flow.estimator import FlowEstimator
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
        threads: Threads of OpenCV during estimation; None: as many as OpenCV is set to. OpenCV has one setting per
            process; it is put back afterwards.

    Raises:
        ValueError: If an argument is out of its range.
    """

    # DIS builds a pyramid of 8-pixel patches and raises on smaller frames.
    smallest = 32
    # OpenCV lets go of the interpreter, so one core estimates while the other composes.
    ahead = True

    def __init__(self, preset: str = "medium", scale: float = 1.0, threads: int | None = None) -> None:
        super().__init__(scale)
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
        before = cv2.getNumThreads()
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        try:
            # The object keeps buffers between calls, so it is made here: two threads may not share one.
            dis = cv2.DISOpticalFlow.create(PRESETS[self.preset])
            flows = [
                # The stubs know no call without a flow to start from.
                dis.calc(_grey(s), _grey(t), None)  # type: ignore[call-overload]
                for s, t in zip(frames_s.cpu(), frames_t.cpu(), strict=True)
            ]
        finally:
            if self.threads is not None:
                cv2.setNumThreads(before)
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(frames_s.device)


def _grey(frame: Tensor) -> np.ndarray:
    """Grey image (H, W) uint8 of one frame (3, H, W)."""
    return cv2.cvtColor(cv2.merge([plane.numpy() for plane in frame]), cv2.COLOR_RGB2GRAY)
