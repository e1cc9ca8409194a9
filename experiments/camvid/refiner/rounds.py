"""Compare which neighbouring frames vote on a refined label: mIoU and calibration error by distances and weight.

python experiments/camvid/refiner/rounds.py camvid --every 50 --teacher T.ckpt --refiner R.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from readout import measure, network_arguments
from torch import Tensor

from wrp import PropagationModule
from wrp.propagation.methods import METHODS
from wrp.propagation.methods.base import Context, PropagationMethod, QueryFrame
from wrp.propagation.methods.refine import Answers, Refine

# Distances of the frames that vote, on both sides, and the weight of each vote.
VOTERS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((), 0.5),
    ((1,), 0.5),
    ((3,), 0.5),
    ((1, 3), 0.5),
    ((2, 4), 0.5),
    ((1, 2, 4), 0.5),
    ((3, 6), 0.5),
    ((5, 10), 0.5),
    ((1, 3, 6), 0.25),
    ((1, 3, 6), 0.5),
    ((1, 3, 6), 1.0),
    ((2, 4, 6), 0.5),
    ((1, 2, 4, 8), 0.5),
)


class OnceAnswered(Refine):
    """All sets of voters use the same answers, which are computed once."""

    known: ClassVar[dict[int, Tensor]] = {}

    def start(self, context: Context) -> Answers:
        self.known.clear()
        return super().start(context)

    def answers(self, queries: Sequence[QueryFrame], context: Context) -> Tensor:
        if missing := [query for query in queries if query.index not in self.known]:
            answers = (super().answers(missing, context) * 255).round().to(torch.uint8)  # with the precision of Refine
            self.known.update(zip((query.index for query in missing), answers, strict=True))
        return torch.stack([self.known[query.index] for query in queries]).float() / 255


def name(voters: tuple[int, ...], vote: float) -> str:
    return f"±{', '.join(map(str, voters))} by {vote}" if voters else "none"


def voting(voters: tuple[int, ...], vote: float) -> type[PropagationMethod[Any]]:
    """Make a method with these voters."""
    return type("Voted", (OnceAnswered,), {"voters": voters, "vote": vote})


class ByVoters(PropagationModule):
    """Propagation with a method for each set of voters."""

    known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = METHODS | {
        name(*way): voting(*way) for way in VOTERS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    network_arguments(parser)
    print(measure(ByVoters, ["motion", "inpaint", *(name(*way) for way in VOTERS)], parser.parse_args()))


if __name__ == "__main__":
    main()
