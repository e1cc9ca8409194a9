"""SegProp's vote (Marcu et al., ACCV 2020)."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from wrp.geometry.fusion import weighted_vote
from wrp.geometry.labels import argmax_frame
from wrp.propagation.methods.base import Context, Keyframes, Needs, PropagationMethod, QueryFrame
from wrp.propagation.voting import vote_interval, vote_sources

Votes = Generator[tuple[int, Tensor], None, None]
Sources = Generator[tuple[int, tuple[Tensor, Tensor]], None, None]


class Vote(PropagationMethod[Votes]):
    """SegProp's vote: four sources, then rounds of votes among neighbouring frames.

    Args:
        keyframes: See :class:`PropagationMethod`.
        rounds: Number of further rounds, in which the soft votes of neighbouring frames are averaged.

    Example:
        >>> Vote(rounds=2).needs.flow
        True
    """

    needs = Needs(flow=True)

    def __init__(self, keyframes: Keyframes = "both", rounds: int = 1) -> None:
        super().__init__(keyframes)
        self.rounds = rounds

    def start(self, context: Context) -> Votes:
        """Begin the votes; those of a frame are counted when it is requested."""
        assert context.flow is not None
        wanted = frozenset(context.wanted)
        return vote_interval(context.interval, context.flow, context.num_classes, self.rounds, self.keyframes, wanted)

    def predict(self, query: QueryFrame, state: Votes) -> tuple[Tensor, Tensor]:
        """Return the class with the most votes."""
        return argmax_frame(next(votes for index, votes in state if index == query.index))

    def close(self, state: Votes) -> None:
        """Delete the temporary file of the votes."""
        state.close()


class VoteOnce(PropagationMethod[Sources]):
    """SegProp's vote of four sources, without further rounds.

    Args:
        keyframes: See :class:`PropagationMethod`.

    Example:
        >>> VoteOnce("previous").keyframes
        'previous'
    """

    needs = Needs(flow=True)

    def start(self, context: Context) -> Sources:
        """Begin to collect the sources."""
        assert context.flow is not None
        return vote_sources(context.interval, context.flow, self.keyframes, frozenset(context.wanted))

    def predict(self, query: QueryFrame, state: Sources) -> tuple[Tensor, Tensor]:
        """Return the label with the most votes."""
        return weighted_vote(*next(sources for index, sources in state if index == query.index))

    def close(self, state: Sources) -> None:
        """Delete the temporary files of the sources."""
        state.close()
