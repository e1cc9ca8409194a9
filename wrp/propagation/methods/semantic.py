"""The teacher alone."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from wrp.propagation.methods.base import Context, Keyframes, Needs, PropagationMethod, QueryFrame


class Semantic(PropagationMethod):
    """Semantic-only y^S (paper): the teacher's decision."""

    needs = Needs(teacher=True)
    works_from: ClassVar[frozenset[Keyframes]] = frozenset()

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Take the teacher's decision."""
        return query.teacher_labels
