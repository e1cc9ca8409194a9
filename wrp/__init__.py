"""Warp-Refine Propagation: dense labels for every frame of a video from a few labelled ones.

Public names are imported on first use: ``import wrp`` loads neither Lightning nor torchvision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wrp.callbacks.writer import LabelWriter
    from wrp.data.images import ImageData
    from wrp.data.propagation import PropagationData
    from wrp.data.refinement import RefinementData
    from wrp.data.segmentation import SegmentationData
    from wrp.data.semisupervised import SemiSupervisedData
    from wrp.propagation.module import PropagationModule
    from wrp.refinement.module import RefinementModule
    from wrp.refinement.sampler import CycleExamples
    from wrp.runs.autolabel import autolabel
    from wrp.runs.config import Settings
    from wrp.segmentation.module import SegmentationModule

_HOME = {
    "CycleExamples": "wrp.refinement.sampler",
    "ImageData": "wrp.data.images",
    "LabelWriter": "wrp.callbacks.writer",
    "PropagationData": "wrp.data.propagation",
    "PropagationModule": "wrp.propagation.module",
    "RefinementData": "wrp.data.refinement",
    "RefinementModule": "wrp.refinement.module",
    "SegmentationData": "wrp.data.segmentation",
    "SegmentationModule": "wrp.segmentation.module",
    "SemiSupervisedData": "wrp.data.semisupervised",
    "Settings": "wrp.runs.config",
    "autolabel": "wrp.runs.autolabel",
}

__all__ = [
    "CycleExamples",
    "ImageData",
    "LabelWriter",
    "PropagationData",
    "PropagationModule",
    "RefinementData",
    "RefinementModule",
    "SegmentationData",
    "SegmentationModule",
    "SemiSupervisedData",
    "Settings",
    "autolabel",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'wrp' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
