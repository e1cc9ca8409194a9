"""Warp-refine: the refiner's answers, and votes among those of frames around one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from wrp.models.refiner import refined, refiner_input
from wrp.modules.targets import Labels, Propagator, Target
from wrp.ops.chain import NeighbourFlow, extend_far, start_chain
from wrp.ops.consistency import to_unit
from wrp.ops.fusion import Evidence
from wrp.ops.labels import decide_frame
from wrp.ops.warp import warp
from wrp.types import ClipBatch


class Refine(Propagator):
    """Warp-refine y^WR (paper): the refiner's answer to warp-inpaint, asked once, at read-out.

    Then a round of votes among the answers at frames around one another, brought along the composed flow where its
    forward-backward test holds (ours): their errors differ from frame to frame. Chosen by
    experiments/camvid/refiner/rounds.py.

    Attributes:
        voters: Distances of the frames, on both sides, that vote.
        vote: Weight of each of their votes; the target's own has 1.
    """

    needs_teacher = True
    needs_refiner = True
    voters: ClassVar[tuple[int, ...]] = (1, 2, 4)
    vote: ClassVar[float] = 0.5

    @property
    def reach(self) -> int:
        """The farthest of the voters."""
        return max(self.voters, default=0)

    def begin(self, module: Any, batch: ClipBatch) -> None:
        """Start an interval."""
        self.batch = batch
        self.answers: dict[int, Tensor] = {}
        self.flows: dict[int, NeighbourFlow] = {}

    def end(self) -> None:
        """Let go of the interval."""
        del self.batch, self.answers, self.flows

    def label(self, module: Any, target: Target) -> Labels:
        """The decision of the refiner's answers at the target and around it."""
        answers = self._answers_at(module, target.index, target)
        assert answers is not None, "a target is among the frames around it"
        for theirs, trusted in self._around(module, target):
            answers += theirs.mul_(self.vote * trusted)
        for kept in (self.answers, self.flows):
            for index in [index for index in kept if index < target.index - self.reach]:
                del kept[index]
        return decide_frame(answers.div_(answers.sum(0).clamp(min=1e-6)))

    def answer(self, module: Any, target: Target, evidence: Evidence) -> Tensor:
        """The refiner's answer to some evidence, (C, H, W); zeros where it is not finite."""
        inputs = refiner_input(to_unit(target.frame), evidence, target.semantic)
        probs = refined(module.refiner, inputs)[0]
        return probs.masked_fill(~module.not_finite["refiner"].known(probs, 0), 0.0)

    def _around(self, module: Any, target: Target) -> Iterator[tuple[Tensor, Tensor]]:
        """The answers at the frames that vote, (C, H, W), in the target's place, and where they are to be trusted."""
        first, last = self.batch.ends
        for step in (-1, 1):
            chain = start_chain(target.frame[0])
            for at in range(target.index, target.index + step * self.reach, step):
                far = at + step
                if not first <= far <= last:
                    break
                onward, homeward = self._flow_between(module, min(at, far)).towards(step)
                chain = extend_far(chain, onward, homeward)
                if abs(far - target.index) not in self.voters:
                    continue
                if (answers := self._answers_at(module, far, target)) is not None:
                    yield warp(answers[None], chain.flow)[0][0], ~chain.error[0]

    def _flow_between(self, module: Any, index: int) -> NeighbourFlow:
        """Flow between a frame and the next, asked for once: frames of long stretches are read each time."""
        if index not in self.flows:
            [flow] = module.flow.between(self.batch, [index])
            self.flows[index] = NeighbourFlow(flow.flow_fw.half(), flow.flow_bw.half())  # as precise as it comes
        return NeighbourFlow(self.flows[index].flow_fw.float(), self.flows[index].flow_bw.float())

    def _answers_at(self, module: Any, index: int, target: Target) -> Tensor | None:
        """The answer at a frame around the target, (C, H, W) float32; None where none may be asked."""
        if (label := self.batch.labels.get(index)) is not None:
            if self.anchors == "previous" and index != min(self.batch.labels):
                return None
            known = functional.one_hot(label.long().clamp(max=module.num_classes), module.num_classes + 1)
            return known.movedim(-1, 0)[:-1].float()
        if index not in target.around:
            return None
        if index not in self.answers:
            other = target.around[index]
            probs = self.answer(module, other, other.seen_from(self.anchors))
            self.answers[index] = (probs * 255).round_().to(torch.uint8)
            if sum(chosen.needs_teacher for chosen in module.chosen.values()) == 1:  # nobody else needs them
                other.forget()
        return self.answers[index].float().div_(255)
