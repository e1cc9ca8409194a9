"""Copy the labels of the keyframes."""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.fusion import hide_farther, weighted_vote
from wrp.propagation.methods.base import Context, PropagationMethod, QueryFrame


class Copy(PropagationMethod):
    """Copies the labels of the keyframes, without motion; where two differ, that of the nearer keyframe.

    Args:
        keyframes: See :class:`PropagationMethod`.

    Example:
        >>> from wrp.propagation.methods.base import Known
        >>> labels = {0: torch.zeros(1, 2, dtype=torch.uint8), 4: torch.ones(1, 2, dtype=torch.uint8)}
        >>> known, method = Known(1, torch.zeros(3, 1, 2, dtype=torch.uint8), labels), Copy()
        >>> query = QueryFrame(known, method.needs, method.keyframes, {1: known})
        >>> method.predict(query, state=None)[0].tolist()
        [[0, 0]]
    """

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Vote for the labels of the keyframes, weighted by nearness."""
        labels = torch.stack(list(query.keyframes.values()))
        away = torch.tensor([abs(query.index - keyframe) for keyframe in query.keyframes], dtype=torch.float32)
        if self.keyframes == "nearest":
            labels = hide_farther(labels, away, torch.arange(len(away)))
        return weighted_vote(labels, 1 / (away + 1e-3 * torch.arange(len(away))))  # halfway, the earlier one wins
