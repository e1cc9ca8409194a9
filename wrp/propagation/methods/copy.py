"""The labels of the keyframes as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from wrp.geometry.fusion import hide_farther, weighted_vote
from wrp.propagation.methods.base import Context, PropagationMethod, QueryFrame


class Copy(PropagationMethod):
    """The labels of the keyframes as they are; of two that differ, the nearer one's."""

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Vote by nearness."""
        labels = torch.stack(list(query.keyframes.values()))
        away = torch.tensor([abs(query.index - keyframe) for keyframe in query.keyframes], dtype=torch.float32)
        if self.keyframes == "nearest":
            labels = hide_farther(labels, away, torch.arange(len(away)))
        return weighted_vote(labels, 1 / (away + 1e-3 * torch.arange(len(away))))  # halfway, the earlier one
