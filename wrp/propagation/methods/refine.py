"""Warp-refine: the refiner's probabilities, and a vote among those of neighbouring frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from wrp.geometry.composed import NeighbourFlow, append_flow, identity_flow
from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import argmax_frame
from wrp.geometry.warp import warp
from wrp.propagation.methods.base import Context, Keyframes, Needs, PropagationMethod, QueryFrame, used_keyframes
from wrp.refinement.network import refiner_input, stack_inputs


@dataclass(frozen=True)
class Answers:
    """The state of :class:`Refine`: the refiner's outputs in one interval that may be needed again.

    Attributes:
        context: The context of the interval.
        probs: Probabilities (C, H, W) uint8, 255 for 1, by index in the clip.
        flows: Flow between a frame and the next one, by the index of the former, float16.

    Example:
        >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2, torch.zeros(8, 8, dtype=torch.uint8)
        >>> from wrp.structures import ClipBatch
        >>> interval = ClipBatch("street", ["a", "b"], 0, frames, {0: label}, queries=(0, 2))
        >>> Answers(Context(2, interval, wanted=(1,))).probs
        {}
    """

    context: Context
    probs: dict[int, Tensor] = field(default_factory=dict)
    flows: dict[int, NeighbourFlow] = field(default_factory=dict)


class Refine(PropagationMethod[Answers]):
    """Warp-refine y^WR (paper): the refiner's output for warp-inpaint, computed once, at read-out.

    One round of votes follows (ours): the outputs at neighbouring frames are warped along the composed flow, where it
    passes the forward-backward test. It helps, as errors differ from frame to frame. Chosen by
    experiments/camvid/refiner/rounds.py.

    Args:
        keyframes: See :class:`PropagationMethod`.

    Attributes:
        voters: Distances of the voting frames, in frames, on both sides.
        vote: Weight of each of their votes; the query frame's own vote has weight 1.

    Example:
        >>> Refine().needs
        Needs(warped=True, flow=True, teacher=True, refiner=True, neighbours=4)
    """

    voters: ClassVar[tuple[int, ...]] = (1, 2, 4)
    vote: ClassVar[float] = 0.5

    def __init__(self, keyframes: Keyframes = "both") -> None:
        super().__init__(keyframes)
        farthest = max(self.voters, default=0)
        self.needs = Needs(warped=True, flow=farthest > 0, teacher=True, refiner=True, neighbours=farthest)

    def start(self, context: Context) -> Answers:
        """Begin an interval with an empty state."""
        return Answers(context)

    def prepare(self, queries: Sequence[QueryFrame], state: Answers) -> None:
        """Compute the refiner's outputs that vote at these frames, as far as they are missing."""
        voting = {
            index: neighbour
            for query in queries
            for index, neighbour in query.neighbours.items()
            if abs(index - query.index) in (0, *self.voters) and index not in state.probs
        }
        missing, size = [voting[index] for index in sorted(voting)], state.context.frames_per_call
        for some in (missing[start : start + size] for start in range(0, len(missing), size)):
            probs = (self.answers(some, state.context) * 255).round_().to(torch.uint8)
            state.probs.update(zip((query.index for query in some), probs, strict=True))

    def predict(self, query: QueryFrame, state: Answers) -> tuple[Tensor, Tensor]:
        """Return the class with the most votes from the refiner's outputs at the frame and its neighbours."""
        self.prepare([query], state)
        answers = self._answers_at(query.index, query, state)
        assert answers is not None, "a query frame is among the frames around it"
        for theirs, trusted in self._around(query, state):
            answers += theirs.mul_(self.vote * trusted)
        for kept in (state.probs, state.flows):
            for index in [index for index in kept if index < query.index - self.needs.neighbours]:
                del kept[index]
        return argmax_frame(answers.div_(answers.sum(0).clamp(min=1e-6)))

    def answers(self, queries: Sequence[QueryFrame], context: Context) -> Tensor:
        """Compute the refiner's probabilities at B frames in one call, (B, C, H, W) float32."""
        assert context.refine is not None
        inputs = [refiner_input(to_unit(query.image), query.warped, query.teacher_probs) for query in queries]
        return context.refine(stack_inputs(inputs))

    def _around(self, query: QueryFrame, state: Answers) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the outputs of the voting frames, (C, H, W), warped to the query frame, and where the flow is valid."""
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
        """Return the output at a frame near the query, (C, H, W) float32; None if the frame has no vote."""
        context = state.context
        given = context.interval.labels
        if index in given:
            used = index in used_keyframes(self.keyframes, given)
            return _certain(given[index], context.num_classes) if used else None
        return state.probs[index].float().div_(255) if index in state.probs else None


def _certain(label: Tensor, num_classes: int) -> Tensor:
    """Turn a label (H, W) uint8 into probabilities (C, H, W) float32: 1 for its class, all 0 where unlabelled."""
    classes = torch.arange(num_classes, dtype=torch.uint8, device=label.device)
    return (label == classes.view(-1, 1, 1)).float()


def _flow_between(index: int, state: Answers) -> NeighbourFlow:
    """Return the flow between a frame and the next; it is kept, as the frames of a long interval are read anew."""
    if index not in state.flows:
        assert state.context.flow is not None
        [flow] = state.context.flow.between(state.context.interval, [index])
        state.flows[index] = NeighbourFlow(flow.flow_fw.half(), flow.flow_bw.half())  # as the flow cache stores it
    return NeighbourFlow(state.flows[index].flow_fw.float(), state.flows[index].flow_bw.float())
