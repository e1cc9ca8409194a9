"""Ways to label a frame between anchors, each an object with one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from wrp.flow.cache import FlowCache
from wrp.flow.votes import vote_interval, vote_sources
from wrp.models.refiner import refined, refiner_input
from wrp.ops.chain import extend_near, start_chain
from wrp.ops.consistency import to_unit
from wrp.ops.cycle import anchor_evidence, image_of
from wrp.ops.fusion import (
    Evidence,
    anchor_weights,
    blend_labels,
    elect,
    gather,
    hide_farther,
    motion_error,
    prefer_nearest,
)
from wrp.ops.labels import decide_frame
from wrp.types import IGNORE_INDEX, ClipBatch, WrpError

ANCHORS = ("both", "previous", "nearest")

Labels = tuple[Tensor, Tensor]
"""Labels (H, W) uint8 and confidence (H, W) float32 in [0, 1] of one frame."""


@dataclass
class Target:
    """One frame to label and all that is known about it.

    Attributes:
        frame: I_j, (3, H, W) uint8.
        index: j, in the clip.
        anchors: Labels y_a (H, W) uint8 by index; one or two.
        evidence: What the anchors say, the earlier anchor first; None where no method asked for it.
        ask_teacher: Makes :attr:`semantic` from the frame.
    """

    frame: Tensor
    index: int
    anchors: dict[int, Tensor]
    evidence: Evidence | None
    ask_teacher: Callable[[Tensor], Tensor]

    @cached_property
    def semantic(self) -> Tensor:
        """The teacher's probabilities p^S_j, (C, H, W), asked for once; zeros without a teacher."""
        return self.ask_teacher(self.frame)

    @property
    def distance(self) -> int:
        """Frames to the nearest anchor."""
        return self.distance_to("both")

    def distance_to(self, anchors: str) -> int:
        """Frames to the nearest of the anchors that are asked."""
        asked = sorted(self.anchors)[:1] if anchors == "previous" else self.anchors
        return min(abs(self.index - anchor) for anchor in asked)

    def who_says(self, labels: Tensor) -> Tensor | None:
        """(H, W) uint8, see :attr:`~wrp.types.Propagated.source`; None where neither anchors nor teacher were asked."""
        said = []
        if self.evidence is not None:
            said = [(1 << int(a), said) for a, said in zip(self.evidence.anchor, self.evidence.labels, strict=True)]
        if "semantic" in vars(self):
            said.append((4, decide_frame(self.semantic)[0]))
        if not said:
            return None
        source = torch.zeros_like(labels)
        for bit, theirs in said:
            source |= bit * (theirs == labels).to(torch.uint8)
        return source.masked_fill(labels == IGNORE_INDEX, 0)

    def seen_from(self, anchors: str) -> Evidence:
        """What ``both`` anchors say, the ``previous`` one or the only one, or the ``nearest`` that sees the point."""
        assert self.evidence is not None, "the propagator did not say that it needs motion"
        if anchors == "previous":
            return self.evidence.of_anchor(0)
        return prefer_nearest(self.evidence) if anchors == "nearest" else self.evidence


class Propagator:
    """A way to label frames. Subclasses implement :meth:`label` and stand in ``PropagationModule.propagators``.

    Args:
        anchors: Which anchors to ask: ``both``, ``previous`` or ``nearest``.

    Attributes:
        needs_motion: Whether :attr:`Target.evidence` is used.
        needs_teacher: Whether the teacher is asked.
        needs_refiner: Whether the refiner is asked.
        sequential: Whether the label of a frame depends on those of the frames before it.
        takes_anchors: The values of ``anchors`` that make sense.
    """

    needs_motion: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_refiner: ClassVar[bool] = False
    sequential: ClassVar[bool] = False
    takes_anchors: ClassVar[tuple[str, ...]] = ANCHORS

    def __init__(self, anchors: str = "both") -> None:
        self.anchors = anchors

    def begin(self, module: Any, batch: ClipBatch) -> None:
        """Called before the targets of an interval, which come in temporal order, come to :meth:`label`."""

    def end(self) -> None:
        """Called behind the last target of an interval; let go of what :meth:`begin` has kept."""

    def label(self, module: Any, target: Target) -> Labels:
        """Label one frame.

        Args:
            module: The PropagationModule, with its ``flow``, ``teacher`` and ``refiner``.
            target: The frame.
        """
        raise NotImplementedError


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
        return decide_frame(target.semantic)


class Inpaint(Motion):
    """Warp-inpaint y^WI (paper): the teacher where motion is in error."""

    needs_teacher = True

    def label(self, module: Any, target: Target) -> Labels:
        """The anchors' label, or the teacher's decision."""
        error = motion_error(target.seen_from(self.anchors))
        by_motion, by_teacher = super().label(module, target), decide_frame(target.semantic)
        return torch.where(error, by_teacher[0], by_motion[0]), torch.where(error, by_teacher[1], by_motion[1])


class Refine(Propagator):
    """Warp-refine y^WR (paper): the refiner's answer to warp-inpaint, asked once, at read-out."""

    needs_teacher = True
    needs_refiner = True

    def label(self, module: Any, target: Target) -> Labels:
        """The refiner's decision."""
        return self.refine(module, target, target.seen_from(self.anchors))

    def refine(self, module: Any, target: Target, evidence: Evidence) -> Labels:
        """The refiner's answer to some evidence."""
        inputs = refiner_input(to_unit(target.frame), evidence, target.semantic)
        probs = refined(module.refiner, inputs)[0]
        module.not_finite["refiner"].known(probs, 0)
        return decide_frame(probs)


class RefineSteps(Refine):
    """Warp-refine at every step: the earlier anchor's label is refined in each frame and goes on from there.

    The later anchor, where there is one, speaks through its composed flow.
    """

    takes_anchors = ("both", "previous")
    sequential = True

    def begin(self, module: Any, batch: ClipBatch) -> None:
        """Start from the earlier anchor."""
        self.batch = batch
        first = min(batch.labels)
        # Behind the last anchor and between two, frames come in the order in which labels go on; before the first
        # anchor they do not, and nothing can go on.
        self.index, self.labels = first, batch.labels[first]

    def end(self) -> None:
        """Let go of the interval."""
        del self.batch, self.labels

    def label(self, module: Any, target: Target) -> Labels:
        """The refiner's decision, kept for the next frame."""
        evidence = target.seen_from(self.anchors)
        if target.index > self.index:
            chain = start_chain(self.labels)
            for at in range(self.index, target.index):  # one step, but where anchors were left out
                [flow] = module.flow.between(self.batch, [at])
                chain = extend_near(chain, flow.flow_bw, flow.flow_fw)
            image, away = image_of(self.batch.frame(self.index)), int(evidence.distance[0])
            stepped = anchor_evidence(self.labels, image, target.frame, chain, away)
            evidence = gather([stepped, evidence.of_anchor(1)])
        answer = self.refine(module, target, evidence)
        if target.index > self.index:
            self.index, self.labels = target.index, answer[0]
        return answer


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
    "refine-steps": RefineSteps,
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
