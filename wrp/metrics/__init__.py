"""Scores of labels, of their confidence, and of their steadiness along a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.metrics.boundary import BoundaryIoU
    from wrp.metrics.calibration import CalibrationError
    from wrp.metrics.masks import boundary_accuracy, region_similarity
    from wrp.metrics.propagation import PropagationScore
    from wrp.metrics.segmentation import ConfusionMetric, SegmentationScore
    from wrp.metrics.temporal import TemporalConsistency, VideoConsistency

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BoundaryIoU": "boundary",
        "CalibrationError": "calibration",
        "ConfusionMetric": "segmentation",
        "PropagationScore": "propagation",
        "SegmentationScore": "segmentation",
        "TemporalConsistency": "temporal",
        "VideoConsistency": "temporal",
        "boundary_accuracy": "masks",
        "region_similarity": "masks",
    },
)

__all__ = [
    "BoundaryIoU",
    "CalibrationError",
    "ConfusionMetric",
    "PropagationScore",
    "SegmentationScore",
    "TemporalConsistency",
    "VideoConsistency",
    "boundary_accuracy",
    "region_similarity",
]
