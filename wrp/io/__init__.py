"""Everything that is opened or written: safe readers, atomic writers, locks, caches, checkpoints, run folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.io.checkpoints import load_module, read_checkpoint, save_weights
    from wrp.io.images import read_confidence, read_image, read_label
    from wrp.io.label_map import read_label_map, write_label_map
    from wrp.io.manifest import Entry, read_manifest
    from wrp.io.video import Video

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Entry": "manifest",
        "Video": "video",
        "load_module": "checkpoints",
        "read_checkpoint": "checkpoints",
        "read_confidence": "images",
        "read_image": "images",
        "read_label": "images",
        "read_label_map": "label_map",
        "read_manifest": "manifest",
        "save_weights": "checkpoints",
        "write_label_map": "label_map",
    },
)

__all__ = [
    "Entry",
    "Video",
    "load_module",
    "read_checkpoint",
    "read_confidence",
    "read_image",
    "read_label",
    "read_label_map",
    "read_manifest",
    "save_weights",
    "write_label_map",
]
