"""Optical flow: estimators, their cache, and the flow between distant frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.flow.cache import FlowCache
    from wrp.flow.dis import DIS
    from wrp.flow.estimator import FlowEstimator
    from wrp.flow.exact import Exact
    from wrp.flow.presets import make_flow
    from wrp.flow.ptlflow import PTLFlow
    from wrp.flow.raft import RAFT
    from wrp.flow.stored import Stored, read_flow

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DIS": "dis",
        "Exact": "exact",
        "FlowCache": "cache",
        "FlowEstimator": "estimator",
        "PTLFlow": "ptlflow",
        "RAFT": "raft",
        "Stored": "stored",
        "make_flow": "presets",
        "read_flow": "stored",
    },
)

__all__ = [
    "DIS",
    "Exact",
    "FlowCache",
    "FlowEstimator",
    "PTLFlow",
    "RAFT",
    "Stored",
    "make_flow",
    "read_flow",
]
