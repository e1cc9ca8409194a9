"""Dense Inverse Search flow (Kroeger et al., ECCV 2016) of OpenCV: fast, without weights, on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.flow.estimator import FlowEstimator

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

# DIS builds a pyramid of 8-pixel patches and raises on smaller frames; these are padded.
SMALLEST = 32


class DIS(FlowEstimator):
    """OpenCV's DIS optical flow.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.

    Raises:
        ValueError: If the preset is none of the three.
    """

    def __init__(self, preset: str = "medium") -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"unknown DIS preset {preset!r}, expected one of {', '.join(PRESETS)}")
        self.preset = preset

    def estimate(self, frames_s: Tensor, frames_t: Tensor) -> Tensor:
        """Flow of each pair on the CPU; see :class:`FlowEstimator`."""
        # The object keeps buffers between calls, so it is made here: two threads may not share one.
        dis = cv2.DISOpticalFlow.create(PRESETS[self.preset])
        height, width = frames_s.shape[-2:]
        flows = [
            # The stubs know no call without a flow to start from.
            dis.calc(_grey(s), _grey(t), None)[:height, :width]  # type: ignore[call-overload]
            for s, t in zip(frames_s.cpu(), frames_t.cpu(), strict=True)
        ]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(frames_s.device)


def _grey(frame: Tensor) -> np.ndarray:
    """Grey image (H, W) uint8 of one frame (3, H, W), at least :data:`SMALLEST` in each direction."""
    grey = cv2.cvtColor(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
    bottom, right = max(0, SMALLEST - grey.shape[0]), max(0, SMALLEST - grey.shape[1])
    return cv2.copyMakeBorder(grey, 0, bottom, 0, right, cv2.BORDER_REPLICATE) if bottom or right else grey
