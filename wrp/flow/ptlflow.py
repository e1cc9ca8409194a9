"""Any model of PTLFlow (https://ptlflow.readthedocs.io), an optional package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.imports import RequirementCache
from torch import Tensor

from wrp.errors import WrpError
from wrp.flow.estimator import FlowEstimator
from wrp.flow.raft import fingerprint
from wrp.io.hubs import check_hub
from wrp.structures import FramePair

_PTLFLOW = RequirementCache("ptlflow>=0.4")


class PTLFlow(FlowEstimator):
    """An optical flow network of PTLFlow, by name.

    Args:
        model: Name in PTLFlow, e.g. ``rapidflow`` or ``sea_raft_s``.
        weights: Name of PTLFlow's weights for the model, e.g. ``things``, which are downloaded; path of a checkpoint;
            or None for random weights, which estimate nothing useful.
        scale: Working resolution, see :class:`FlowEstimator`.
        pairs_per_call: See :class:`FlowEstimator`.

    Raises:
        ValueError: If ``scale`` or ``pairs_per_call`` is out of its range.
        WrpError: If PTLFlow is not installed, does not know the model, or cannot load the weights.

    Example:
        >>> flow = PTLFlow("rapidflow", weights="things")  # doctest: +SKIP
    """

    def __init__(self, model: str, weights: str | None = None, scale: float = 1.0, pairs_per_call: int = 1) -> None:
        super().__init__(scale, pairs_per_call)
        if not _PTLFLOW:
            raise WrpError(
                "PTLFlow estimators need the package ptlflow: pip install 'wrp[ptlflow]' && "
                "pip install --no-deps ptlflow"
            )
        self.model = model
        self.net = _load(model, weights).requires_grad_(False).eval()
        # PTLFlow's models pad by themselves; the smallest size is what their pyramids of correlations need.
        self.stride = int(getattr(self.net, "output_stride", 8))
        self.smallest = 16 * self.stride
        self._fingerprint = fingerprint(self.net)

    @property
    def signature(self) -> str:
        """Model, settings and a hash of the weights."""
        return f"PTLFlow {self.model} scale={self.scale} weights={self._fingerprint}"

    def train(self, mode: bool = True) -> PTLFlow:
        """Keep the network in evaluation mode."""
        return super().train(False)

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Estimate the flow with the model; see :class:`FlowEstimator`."""
        # PTLFlow reads images with OpenCV, so its models expect BGR.
        images = torch.stack((frames_s, frames_t), 1).flip(2).float() / 255
        flow: Tensor = self.net({"images": images})["flows"][:, 0]
        return flow


def _load(model: str, weights: str | None) -> Any:
    import ptlflow

    if weights is not None and not Path(weights).is_file():
        check_hub(weights, f"the weights of PTLFlow's {model}")
    try:
        return ptlflow.get_model(model, ckpt_path=weights)
    except (Exception, SystemExit) as error:  # unknown names, downloads and damaged files raise many types there
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WrpError(f"PTLFlow cannot make model {model!r} with weights {weights!r}: {reason[0][:300]}") from error
