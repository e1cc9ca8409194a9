"""RAFT (Teed and Deng, ECCV 2020) of torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.optical_flow import raft_large, raft_small

from wrp.errors import WrpError, check_choice
from wrp.flow.estimator import FlowEstimator
from wrp.io.hubs import check_hub
from wrp.io.opening import check_archive
from wrp.structures import FramePair

VARIANTS = {"small": raft_small, "large": raft_large}

# Precision of the network under autocast; its correlations and coordinates stay float32 inside torchvision.
PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class RAFT(FlowEstimator):
    """torchvision's RAFT.

    Args:
        variant: ``small`` or ``large``.
        weights: Name of torchvision's weights for the variant, e.g. ``DEFAULT`` or ``C_T_SKHT_V2``, which are
            downloaded; path of a file with a ``state_dict``; or None for random weights, which estimate nothing
            useful.
        iterations: Refinement steps of the network.
        precision: ``32``, ``bf16`` or ``16``.
        scale: Working resolution, see :class:`FlowEstimator`.
        pairs_per_call: See :class:`FlowEstimator`.

    Raises:
        ValueError: If an argument is out of its range.
        WrpError: If weights cannot be downloaded or do not fit.

    Example:
        >>> flow = RAFT("small", weights=None, iterations=6)
        >>> flow.stride, flow.smallest, flow.signature.split(" weights=")[0]
        (8, 128, 'RAFT small iterations=6 precision=32 scale=1.0')
    """

    # The features have an eighth of the resolution, and four levels of correlation need 16 of them on each side.
    stride = 8
    smallest = 128

    def __init__(
        self,
        variant: str = "small",
        weights: str | None = "DEFAULT",
        iterations: int = 12,
        precision: str = "32",
        scale: float = 1.0,
        pairs_per_call: int = 1,
    ) -> None:
        super().__init__(scale, pairs_per_call)
        check_choice("RAFT variant", variant, VARIANTS, kind=ValueError)
        check_choice("precision", precision, PRECISIONS, kind=ValueError)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.variant = variant
        self.iterations = iterations
        self.precision = precision
        self.net = _load(variant, weights).requires_grad_(False).eval()
        self._fingerprint = fingerprint(self.net)

    @property
    def signature(self) -> str:
        """Variant, settings and a hash of the weights."""
        return (
            f"RAFT {self.variant} iterations={self.iterations} precision={self.precision} scale={self.scale} "
            f"weights={self._fingerprint} torchvision={torchvision.__version__}"
        )

    def train(self, mode: bool = True) -> RAFT:
        """Keep the network in evaluation mode."""
        return super().train(False)

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Estimate the flow, that of the last iteration; see :class:`FlowEstimator`."""
        dtype = PRECISIONS[self.precision]
        first, second = (frames.float() / 127.5 - 1 for frames in (frames_s, frames_t))
        # torchvision makes offsets anew in each iteration, by default on the CPU: each copy would wait for the GPU.
        here = torch.device(frames_s.device)
        with here, torch.autocast(here.type, dtype=dtype, enabled=dtype is not None):
            flow: Tensor = self.net(first, second, num_flow_updates=self.iterations)[-1]
        return flow


def fingerprint(net: nn.Module) -> str:
    """Hash all weights of a network, to 16 hexadecimal digits.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> len(fingerprint(net)), fingerprint(net) == fingerprint(net)
        (16, True)
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(variant: str, weights: str | None) -> nn.Module:
    make: Any = VARIANTS[variant]
    if weights is None:
        return make(weights=None)
    path = Path(weights)
    if path.suffix or path.exists():
        return _load_file(make(weights=None), path)
    known = torchvision.models.get_model_weights(make).__members__
    check_choice("weights", weights, ("DEFAULT", *known), f" of RAFT {variant}, or a file")
    check_hub(weights, f"the weights of RAFT {variant}")
    try:
        return make(weights=weights)
    except Exception as error:  # the hub raises many types, network errors included
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WrpError(
            f"the weights {weights!r} of RAFT {variant} cannot be downloaded ({reason[0][:200]}): pass weights=<file>, "
            "or use DIS, which needs none"
        ) from error


def _load_file(net: nn.Module, path: Path) -> nn.Module:
    if not path.is_file():
        raise WrpError(f"there is no file {path} with weights of RAFT")
    try:
        check_archive(path)
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged or foreign file raises whatever error the unpickler meets first
        reason = " ".join(str(error).split())[:200]
        raise WrpError(f"{path} does not hold a state_dict of this RAFT variant: {reason}") from error
    return net
