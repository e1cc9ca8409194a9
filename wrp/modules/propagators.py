"""Ways to label a frame between anchors, each an object with one interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wrp.flow.cache import FlowCache
from wrp.flow.votes import vote_interval, vote_sources
from wrp.modules.refining import Refine
from wrp.modules.targets import Labels, Propagator, Target
from wrp.ops.fusion import anchor_weights, blend_labels, elect, hide_farther, motion_error
from wrp.ops.labels import decide_frame
from wrp.types import ClipBatch, WrpError


class Copy(Propagator):
    """The labels of the anchors as they are; of two that differ, the nearer one's."""

    needs_motion = False

    def label(self, module: Any, target: Target) -> Labels:
        """Labels of the anchors, weighed by nearness."""
        labels = torch.stack([target.anchors[a] for a in sorted(target.anchors)])
        away = torch.tensor([abs(target.index - a) for a in sorted(target.anchors)], dtype=torch.float32)
        if self.anchors == "previous":
            labels, away = labels[:1], away[:1]
        if self.anchors == "nearest":
            labels = hide_farther(labels, away, torch.arange(len(away)))
        return elect(labels, 1 / (away + 1e-3 * torch.arange(len(away))))  # halfway, the earlier one


class Motion(Propagator):
    """Motion-only y^M (paper), here from both anchors (ours)."""

    def label(self, module: Any, target: Target) -> Labels:
        """The class that the anchors make most probable."""
        evidence = target.seen_from(self.anchors)
        return blend_labels(evidence, anchor_weights(evidence), module.num_classes)


class Semantic(Propagator):
    """Semantic-only y^S (paper): the teacher."""

    needs_motion = False
    needs_teacher = True
    takes_anchors = ()

    def label(self, module: Any, target: Target) -> Labels:
        """The teacher's decision."""
        return target.taught


class Inpaint(Motion):
    """Warp-inpaint y^WI (paper): the teacher where motion is in error."""

    needs_teacher = True

    def label(self, module: Any, target: Target) -> Labels:
        """The anchors' label, or the teacher's decision."""
        error = motion_error(target.seen_from(self.anchors))
        by_motion, by_teacher = super().label(module, target), target.taught
        return torch.where(error, by_teacher[0], by_motion[0]), torch.where(error, by_teacher[1], by_motion[1])


class Vote(Propagator):
    """SegProp's vote (Marcu et al., ACCV 2020): four sources, then rounds of votes among neighbouring frames.

    Args:
        anchors: See :class:`Propagator`.
        rounds: How many times each frame is voted on anew by the soft votes of the frames around it.
    """

    needs_motion = False

    def __init__(self, anchors: str = "both", rounds: int = 1) -> None:
        super().__init__(anchors)
        self.rounds = rounds

    def begin(self, module: Any, batch: ClipBatch) -> None:
        """Start the vote of an interval."""
        flow: FlowCache = module.flow
        self.votes = vote_interval(batch, flow, module.num_classes, self.rounds, self.anchors)

    def end(self) -> None:
        """Let go of the interval."""
        del self.votes

    def label(self, module: Any, target: Target) -> Labels:
        """The class with the most votes."""
        return decide_frame(next(votes for index, votes in self.votes if index == target.index))


class VoteOnce(Propagator):
    """SegProp's vote of four sources, without further rounds."""

    needs_motion = False

    def begin(self, module: Any, batch: ClipBatch) -> None:
        """Start the vote of an interval."""
        self.sources = vote_sources(batch, module.flow, self.anchors)

    def end(self) -> None:
        """Let go of the interval."""
        del self.sources

    def label(self, module: Any, target: Target) -> Labels:
        """The label with the most votes."""
        return elect(*next(votes for index, votes in self.sources if index == target.index and votes is not None))


PROPAGATORS: dict[str, type[Propagator]] = {
    "copy": Copy,
    "motion": Motion,
    "vote-once": VoteOnce,
    "vote": Vote,
    "semantic": Semantic,
    "inpaint": Inpaint,
    "refine": Refine,
}


def make_propagator(method: str, known: Mapping[str, type[Propagator]] = PROPAGATORS) -> Propagator:
    """The propagator of a method's name, ``name`` or ``name:anchors``.

    Raises:
        WrpError: If there is no such propagator, or it does not take these anchors.
    """
    name, colon, anchors = method.partition(":")
    if name not in known:
        raise WrpError(f"unknown method {method!r}, methods must be some of {', '.join(known)}, as is or with :anchors")
    if colon and anchors not in known[name].takes_anchors:
        takes = ", ".join(f"{name}:{value}" for value in known[name].takes_anchors) or "no anchors"
        raise WrpError(f"unknown method {method!r}: {name} takes {takes}")
    return known[name](anchors) if colon else known[name]()


def make_propagators(methods: list[str], known: Mapping[str, type[Propagator]] = PROPAGATORS) -> dict[str, Propagator]:
    """The propagators of several methods by name; WrpError unless there is one, and each is named once."""
    if not methods or len(set(methods)) < len(methods):
        raise WrpError(f"methods must be some of {', '.join(known)}, each once; got {', '.join(methods) or 'none'}")
    return {method: make_propagator(method, known) for method in methods}
