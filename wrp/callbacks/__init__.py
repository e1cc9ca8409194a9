"""Callbacks of the Trainer, and how it writes checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.callbacks.best import BestScore
    from wrp.callbacks.checkpoints import WholeCheckpointIO
    from wrp.callbacks.config import SaveConfig
    from wrp.callbacks.panels import SegmentationPanels
    from wrp.callbacks.pictures import ConfusionPicture
    from wrp.callbacks.stopping import StopWhenTold
    from wrp.callbacks.writer import LabelWriter

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BestScore": "best",
        "ConfusionPicture": "pictures",
        "LabelWriter": "writer",
        "SaveConfig": "config",
        "SegmentationPanels": "panels",
        "StopWhenTold": "stopping",
        "WholeCheckpointIO": "checkpoints",
    },
)

__all__ = [
    "BestScore",
    "ConfusionPicture",
    "LabelWriter",
    "SaveConfig",
    "SegmentationPanels",
    "StopWhenTold",
    "WholeCheckpointIO",
]
