"""Motion, and the teacher where motion is in error."""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.fusion import motion_error
from wrp.propagation.methods.base import Context, Needs, QueryFrame
from wrp.propagation.methods.motion import Motion


class Inpaint(Motion):
    """Warp-inpaint y^WI (paper): the teacher where motion is in error."""

    needs = Needs(warped=True, teacher=True)

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Decide by motion, or as the teacher does."""
        error = motion_error(query.warped)
        by_motion, by_teacher = super().predict(query, state), query.teacher_labels
        return torch.where(error, by_teacher[0], by_motion[0]), torch.where(error, by_teacher[1], by_motion[1])
