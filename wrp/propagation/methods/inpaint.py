"""Warp-inpaint: motion, and the teacher inside the motion-error mask."""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.fusion import motion_error
from wrp.propagation.methods.base import Context, Needs, QueryFrame
from wrp.propagation.methods.motion import Motion


class Inpaint(Motion):
    """Warp-inpaint y^WI (paper): labels by motion, and the teacher's labels inside the motion-error mask.

    Args:
        keyframes: See :class:`PropagationMethod`.

    Example:
        >>> Inpaint("nearest").needs.teacher
        True
    """

    needs = Needs(warped=True, teacher=True)

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Return labels by motion, and the teacher's labels inside the motion-error mask."""
        error = motion_error(query.warped)
        by_motion, by_teacher = super().predict(query, state), query.teacher_labels
        return torch.where(error, by_teacher[0], by_motion[0]), torch.where(error, by_teacher[1], by_motion[1])
