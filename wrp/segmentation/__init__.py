"""Segmentation networks and their training: teacher, student, and networks for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.segmentation.inference import labels_by_tiles, tiled_probabilities
    from wrp.segmentation.labeler import Labeler, load
    from wrp.segmentation.losses import SegmentationLoss
    from wrp.segmentation.module import SegmentationModule, load_segmenter
    from wrp.segmentation.network import Segmenter, create_segmenter

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Labeler": "labeler",
        "SegmentationLoss": "losses",
        "SegmentationModule": "module",
        "Segmenter": "network",
        "create_segmenter": "network",
        "labels_by_tiles": "inference",
        "load": "labeler",
        "load_segmenter": "module",
        "tiled_probabilities": "inference",
    },
)

__all__ = [
    "Labeler",
    "SegmentationLoss",
    "SegmentationModule",
    "Segmenter",
    "create_segmenter",
    "labels_by_tiles",
    "load",
    "load_segmenter",
    "tiled_probabilities",
]
