"""Propagation of labels from keyframes to the frames between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.propagation.calibration import Calibration
    from wrp.propagation.methods.base import Context, Labels, Needs, PropagationMethod, QueryFrame
    from wrp.propagation.module import PropagationModule
    from wrp.propagation.session import PropagationSession

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Calibration": "calibration",
        "Context": "methods.base",
        "Labels": "methods.base",
        "Needs": "methods.base",
        "PropagationMethod": "methods.base",
        "PropagationModule": "module",
        "PropagationSession": "session",
        "QueryFrame": "methods.base",
    },
)

__all__ = [
    "Calibration",
    "Context",
    "Labels",
    "Needs",
    "PropagationMethod",
    "PropagationModule",
    "PropagationSession",
    "QueryFrame",
]
