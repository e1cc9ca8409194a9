"""Warp-Refine Propagation: dense labels for every frame of a video from a few labelled ones.

The public names are imported when they are first used: ``import wrp`` loads neither Lightning nor torchvision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wrp.callbacks.writer import LabelWriter
    from wrp.data.datamodule import VideoDataModule
    from wrp.data.imagemodule import ImageDataModule
    from wrp.modules.refinement import RefinementModule
    from wrp.modules.segmentation import SegmentationModule
    from wrp.pipeline.autolabel import autolabel
    from wrp.pipeline.settings import Settings
    from wrp.propagation.module import PropagationModule

_HOME = {
    "ImageDataModule": "wrp.data.imagemodule",
    "LabelWriter": "wrp.callbacks.writer",
    "PropagationModule": "wrp.propagation.module",
    "RefinementModule": "wrp.modules.refinement",
    "SegmentationModule": "wrp.modules.segmentation",
    "Settings": "wrp.pipeline.settings",
    "VideoDataModule": "wrp.data.datamodule",
    "autolabel": "wrp.pipeline.autolabel",
}

__all__ = [
    "ImageDataModule",
    "LabelWriter",
    "PropagationModule",
    "RefinementModule",
    "SegmentationModule",
    "Settings",
    "VideoDataModule",
    "autolabel",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'wrp' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
