"""Motion only: blend the warped labels of the keyframes."""

from __future__ import annotations

from torch import Tensor

from wrp.geometry.fusion import blend_labels, blend_weights, likeness
from wrp.propagation.methods.base import Context, Needs, PropagationMethod, QueryFrame


class Motion(PropagationMethod):
    """Motion-only y^M (paper), here from the keyframes on both sides (ours).

    Args:
        keyframes: See :class:`PropagationMethod`.

    Example:
        >>> Motion().keyframes, Motion.needs.warped
        ('both', True)
    """

    needs = Needs(warped=True)

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Return the most probable class of the blended warped labels, less sure where the keyframes look different."""
        warped = query.warped
        labels, confidence = blend_labels(warped, blend_weights(warped), state.num_classes)
        return labels, confidence * likeness(warped, labels)
