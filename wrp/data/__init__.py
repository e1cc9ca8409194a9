"""Clips with sparse labels: layouts, the index of clips, and one LightningDataModule for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.data.images import ImageData
    from wrp.data.index import ClipIndex, select_clips
    from wrp.data.layouts.base import Layout
    from wrp.data.layouts.registry import open_index
    from wrp.data.propagated import PropagatedLabels
    from wrp.data.propagation import PropagationData
    from wrp.data.refinement import RefinementData
    from wrp.data.run import open_run
    from wrp.data.segmentation import SegmentationData
    from wrp.data.semisupervised import SemiSupervisedData

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ClipIndex": "index",
        "ImageData": "images",
        "Layout": "layouts.base",
        "PropagatedLabels": "propagated",
        "PropagationData": "propagation",
        "RefinementData": "refinement",
        "SegmentationData": "segmentation",
        "SemiSupervisedData": "semisupervised",
        "open_index": "layouts.registry",
        "open_run": "run",
        "select_clips": "index",
    },
)

__all__ = [
    "ClipIndex",
    "ImageData",
    "Layout",
    "PropagatedLabels",
    "PropagationData",
    "RefinementData",
    "SegmentationData",
    "SemiSupervisedData",
    "open_index",
    "open_run",
    "select_clips",
]
