"""Functions on tensors without state: warping, composed flow, consistency, cycles, fusion of warped labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.geometry.composed import ComposedFlow, NeighbourFlow, append_flow, identity_flow, prepend_flow
    from wrp.geometry.consistency import forward_backward_error, photometric_error
    from wrp.geometry.cycle import warp_cycle, warp_keyframe
    from wrp.geometry.fusion import (
        WarpedLabels,
        blend,
        blend_labels,
        blend_weights,
        gather,
        inpaint,
        join_sources,
        likeness,
        motion_error,
        weighted_vote,
    )
    from wrp.geometry.labels import argmax_frame, argmax_with_confidence, near_border, resize_labels
    from wrp.geometry.vote import push_labels
    from wrp.geometry.warp import compose, coordinates, in_frame, warp_labels

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ComposedFlow": "composed",
        "NeighbourFlow": "composed",
        "WarpedLabels": "fusion",
        "append_flow": "composed",
        "argmax_frame": "labels",
        "argmax_with_confidence": "labels",
        "blend": "fusion",
        "blend_labels": "fusion",
        "blend_weights": "fusion",
        "compose": "warp",
        "coordinates": "warp",
        "forward_backward_error": "consistency",
        "gather": "fusion",
        "identity_flow": "composed",
        "in_frame": "warp",
        "inpaint": "fusion",
        "join_sources": "fusion",
        "likeness": "fusion",
        "motion_error": "fusion",
        "near_border": "labels",
        "photometric_error": "consistency",
        "prepend_flow": "composed",
        "push_labels": "vote",
        "resize_labels": "labels",
        "warp_cycle": "cycle",
        "warp_keyframe": "cycle",
        "warp_labels": "warp",
        "weighted_vote": "fusion",
    },
)

__all__ = [
    "ComposedFlow",
    "NeighbourFlow",
    "WarpedLabels",
    "append_flow",
    "argmax_frame",
    "argmax_with_confidence",
    "blend",
    "blend_labels",
    "blend_weights",
    "compose",
    "coordinates",
    "forward_backward_error",
    "gather",
    "identity_flow",
    "in_frame",
    "inpaint",
    "join_sources",
    "likeness",
    "motion_error",
    "near_border",
    "photometric_error",
    "prepend_flow",
    "push_labels",
    "resize_labels",
    "warp_cycle",
    "warp_keyframe",
    "warp_labels",
    "weighted_vote",
]
