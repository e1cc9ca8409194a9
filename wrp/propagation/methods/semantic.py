"""The teacher only."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from wrp.propagation.methods.base import Context, Keyframes, Needs, PropagationMethod, QueryFrame


class Semantic(PropagationMethod):
    """Semantic-only y^S (paper): the teacher's labels; the keyframes are not used.

    Example:
        >>> Semantic.needs.teacher, sorted(Semantic.works_from)
        (True, [])
    """

    needs = Needs(teacher=True)
    works_from: ClassVar[frozenset[Keyframes]] = frozenset()

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        """Return the teacher's labels and their confidence."""
        return query.teacher_labels
