"""Warp-refine: the refiner's answers, and votes among those of frames around one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.composed import NeighbourFlow, append_flow, identity_flow
from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import argmax_frame
from wrp.geometry.warp import warp
from wrp.propagation.methods.base import Context, Keyframes, Needs, PropagationMethod, QueryFrame, used_keyframes
from wrp.refinement.network import refiner_input


@dataclass(frozen=True)
class Answers:
    """The refiner's answers of one interval, as far as they may be needed again.

    Attributes:
        context: What may be used.
        probs: Probabilities (C, H, W) uint8, 255 for 1, by index in the clip.
        flows: Flow between a frame and the next, by the index of the former, float16.
    """

    context: Context
    probs: dict[int, Tensor] = field(default_factory=dict)
    flows: dict[int, NeighbourFlow] = field(default_factory=dict)


class Refine(PropagationMethod[Answers]):
    """Warp-refine y^WR (paper): the refiner's answer to warp-inpaint, asked once, at read-out.

    Then a round of votes among the answers at frames around one another, brought along the composed flow where its
    forward-backward test holds (ours): their errors differ from frame to frame. Chosen by
    experiments/camvid/refiner/rounds.py.

    Attributes:
        voters: Distances of the frames, on both sides, that vote.
        vote: Weight of each of their votes; the query frame's own has 1.
    """

    voters: ClassVar[tuple[int, ...]] = (1, 2, 4)
    vote: ClassVar[float] = 0.5

    def __init__(self, keyframes: Keyframes = "both") -> None:
        super().__init__(keyframes)
        farthest = max(self.voters, default=0)
        self.needs = Needs(warped=True, flow=farthest > 0, teacher=True, refiner=True, neighbours=farthest)

    def start(self, context: Context) -> Answers:
        """Begin without any answer."""
        return Answers(context)

    def predict(self, query: QueryFrame, state: Answers) -> tuple[Tensor, Tensor]:
        """Decide by the refiner's answers at the frame and around it."""
        answers = self._answers_at(query.index, query, state)
        assert answers is not None, "a query frame is among the frames around it"
        for theirs, trusted in self._around(query, state):
            answers += theirs.mul_(self.vote * trusted)
        for kept in (state.probs, state.flows):
            for index in [index for index in kept if index < query.index - self.needs.neighbours]:
                del kept[index]
        return argmax_frame(answers.div_(answers.sum(0).clamp(min=1e-6)))

    def answer(self, query: QueryFrame, context: Context) -> Tensor:
        """The refiner's answer at one frame, probabilities (C, H, W) float32."""
        assert context.refine is not None
        return context.refine(refiner_input(to_unit(query.image), query.warped, query.teacher_probs))[0]

    def _around(self, query: QueryFrame, state: Answers) -> Iterator[tuple[Tensor, Tensor]]:
        """The answers at the frames that vote, (C, H, W), in the query's place, and where they are to be trusted."""
        first, last = state.context.interval.ends
        radius = self.needs.neighbours
        for step in (-1, 1):
            composed = identity_flow(query.image[0])
            for at in range(query.index, query.index + step * radius, step):
                far = at + step
                if not first <= far <= last:
                    break
                onward, homeward = _flow_between(min(at, far), state).towards(step)
                composed = append_flow(composed, onward, homeward)
                if abs(far - query.index) not in self.voters:
                    continue
                if (answers := self._answers_at(far, query, state)) is not None:
                    yield warp(answers[None], composed.flow)[0][0], ~composed.error[0]

    def _answers_at(self, index: int, query: QueryFrame, state: Answers) -> Tensor | None:
        """The answer at a frame around the query, (C, H, W) float32; None where there is none."""
        context = state.context
        given = context.interval.labels
        if index in given:
            used = index in used_keyframes(self.keyframes, given)
            return _certain(given[index], context.num_classes) if used else None
        if index not in query.neighbours:
            return None
        if index not in state.probs:
            probs = self.answer(query.neighbours[index], context)
            state.probs[index] = (probs * 255).round_().to(torch.uint8)
        return state.probs[index].float().div_(255)


def _certain(label: Tensor, num_classes: int) -> Tensor:
    """Probabilities (C, H, W) float32 of a label (H, W) uint8: 1 for its class, 0 without one."""
    known = functional.one_hot(label.long().clamp(max=num_classes), num_classes + 1)
    return known.movedim(-1, 0)[:-1].float()


def _flow_between(index: int, state: Answers) -> NeighbourFlow:
    """Flow between a frame and the next, asked for once: frames of long stretches are read each time."""
    if index not in state.flows:
        assert state.context.flow is not None
        [flow] = state.context.flow.between(state.context.interval, [index])
        state.flows[index] = NeighbourFlow(flow.flow_fw.half(), flow.flow_bw.half())  # as precise as it comes
    return NeighbourFlow(state.flows[index].flow_fw.float(), state.flows[index].flow_bw.float())
