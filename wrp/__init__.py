"""Warp-Refine Propagation: dense labels for every frame of a video from a few labelled ones.

Public names are imported on first use: ``import wrp`` loads neither Lightning nor torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.callbacks.writer import LabelWriter
    from wrp.data.images import ImageData
    from wrp.data.layouts.base import Layout
    from wrp.data.propagation import PropagationData
    from wrp.data.refinement import RefinementData
    from wrp.data.segmentation import SegmentationData
    from wrp.data.semisupervised import SemiSupervisedData
    from wrp.errors import WrpError
    from wrp.flow.estimator import FlowEstimator
    from wrp.module import BaseModule
    from wrp.propagation.methods.base import PropagationMethod
    from wrp.propagation.module import PropagationModule
    from wrp.refinement.module import RefinementModule
    from wrp.refinement.sampler import CycleExamples
    from wrp.runs.autolabel import autolabel
    from wrp.runs.config import Settings
    from wrp.segmentation.labeler import Labeler, load
    from wrp.segmentation.module import SegmentationModule
    from wrp.structures import ExampleSource

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BaseModule": "module",
        "CycleExamples": "refinement.sampler",
        "ExampleSource": "structures",
        "FlowEstimator": "flow.estimator",
        "ImageData": "data.images",
        "LabelWriter": "callbacks.writer",
        "Labeler": "segmentation.labeler",
        "Layout": "data.layouts.base",
        "PropagationData": "data.propagation",
        "PropagationMethod": "propagation.methods.base",
        "PropagationModule": "propagation.module",
        "RefinementData": "data.refinement",
        "RefinementModule": "refinement.module",
        "SegmentationData": "data.segmentation",
        "SegmentationModule": "segmentation.module",
        "SemiSupervisedData": "data.semisupervised",
        "Settings": "runs.config",
        "WrpError": "errors",
        "autolabel": "runs.autolabel",
        "load": "segmentation.labeler",
    },
)

__all__ = [
    "BaseModule",
    "CycleExamples",
    "ExampleSource",
    "FlowEstimator",
    "ImageData",
    "LabelWriter",
    "Labeler",
    "Layout",
    "PropagationData",
    "PropagationMethod",
    "PropagationModule",
    "RefinementData",
    "RefinementModule",
    "SegmentationData",
    "SegmentationModule",
    "SemiSupervisedData",
    "Settings",
    "WrpError",
    "autolabel",
    "load",
]
