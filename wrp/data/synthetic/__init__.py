"""Generated street scenes with exact labels, optical flow and occlusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.data.synthetic.folder import generate_folder
    from wrp.data.synthetic.scene import SyntheticClip, iterate_frames, render_clip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "SyntheticClip": "scene",
        "generate_folder": "folder",
        "iterate_frames": "scene",
        "render_clip": "scene",
    },
)

__all__ = [
    "SyntheticClip",
    "generate_folder",
    "iterate_frames",
    "render_clip",
]
