"""Known flow of generated clips, behind the interface of the estimators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wrp.errors import WrpError
from wrp.flow.estimator import FlowEstimator
from wrp.flow.hashing import content_hash
from wrp.structures import FramePair


class Exact(FlowEstimator):
    """The exact flow between neighbouring frames of a generated clip: the truth of every motion test.

    Frames are recognised by their content, so only the unchanged frames of this clip have a flow.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        flow_fw: (T-1, 2, H, W) float32 in pixels, from each frame to the next.
        flow_bw: (T-1, 2, H, W) float32 in pixels, from each frame's successor back to it.

    Raises:
        ValueError: If the arrays do not belong together.

    Example:
        >>> frames = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
        >>> right = np.tile(np.float32([1, 0]).reshape(1, 2, 1, 1), (1, 1, 2, 2))
        >>> first, second = torch.from_numpy(frames).permute(0, 3, 1, 2).split(1)
        >>> Exact(frames, flow_fw=right, flow_bw=-right)(second, first)[0, 0]
        tensor([[-1., -1.],
                [-1., -1.]])
    """

    any_frames = False

    def __init__(self, frames: np.ndarray, flow_fw: np.ndarray, flow_bw: np.ndarray) -> None:
        super().__init__()
        expected = (len(frames) - 1, 2, *frames.shape[1:3])
        if flow_fw.shape != expected or flow_bw.shape != expected:
            raise ValueError(
                f"the flows of {len(frames)} frames must be {expected}, got {flow_fw.shape}, {flow_bw.shape}"
            )
        keys = [content_hash(torch.from_numpy(frame).permute(2, 0, 1)) for frame in frames]
        self._flows = {pair: flow for pair, flow in zip(zip(keys, keys[1:], strict=False), flow_fw, strict=True)}
        self._flows |= {pair: flow for pair, flow in zip(zip(keys[1:], keys, strict=False), flow_bw, strict=True)}

    @property
    def signature(self) -> str:
        """Exact flow depends on the frames alone."""
        return "exact"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Look up each pair; see :class:`FlowEstimator`.

        Raises:
            WrpError: If two frames are not neighbours in the clip.
        """
        flows = []
        for s, t in zip(frames_s, frames_t, strict=True):
            key = (content_hash(s), content_hash(t))
            if key not in self._flows:
                raise WrpError("exact flow is known between neighbouring frames of its generated clip only")
            flows.append(torch.from_numpy(self._flows[key]))
        return torch.stack(flows).float().to(frames_s.device)
