"""Segmentation networks and their training: teacher, student, and networks for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.segmentation.inference import tiled_probabilities
    from wrp.segmentation.losses import SegmentationLoss
    from wrp.segmentation.module import SegmentationModule, load_segmenter
    from wrp.segmentation.network import Segmenter, create_segmenter

__getattr__, __dir__ = lazy(
    __name__,
    {
        "SegmentationLoss": "losses",
        "SegmentationModule": "module",
        "Segmenter": "network",
        "create_segmenter": "network",
        "load_segmenter": "module",
        "tiled_probabilities": "inference",
    },
)

__all__ = [
    "SegmentationLoss",
    "SegmentationModule",
    "Segmenter",
    "create_segmenter",
    "load_segmenter",
    "tiled_probabilities",
]
