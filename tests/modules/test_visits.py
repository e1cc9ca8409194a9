"""Frames without a label, looked at in the training of the refiner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.flow.base import texture
from tests.modules.test_refinement import SIZE, Slow
from wrp import RefinementModule
from wrp.flow.cache import FlowCache
from wrp.flow.walk import walk_interval
from wrp.models.refiner import RefinerInput
from wrp.modules.examples import Visit, WalkCache
from wrp.ops.fusion import Evidence
from wrp.types import ClipBatch

WHOLE = (slice(None), slice(None))


def standing_window(target: int = 0, anchors: tuple[int, ...] = (0, 8), count: int = 9) -> ClipBatch:
    """Frames of a scene that stands still, and the labels of some: three classes in stripes of five pixels."""
    label = (torch.arange(SIZE[1]) // 5 % 3).to(torch.uint8).expand(SIZE).contiguous()
    return ClipBatch(
        "clip",
        [str(i) for i in range(count)],
        0,
        [texture(*SIZE, 0)] * count,
        {a: label for a in anchors},
        (target, target + 1),
    )


class Says(nn.Module):
    """The prior, a few pixels to the side."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.by = shift

    def forward(self, inputs: RefinerInput) -> Tensor:
        return (inputs.motion + 1e-3).log().roll(self.by, -1) + self.shift


def module(**options: Any) -> RefinementModule:
    made = RefinementModule(3, channels=(4, 8), flow=Slow(True), jitter=0.0, crop_size=SIZE, **options)
    made.log = lambda *_, **__: None  # type: ignore[method-assign]
    return made


def test_what_is_seen_from_another_frame_comes_home() -> None:
    flow = torch.zeros(2, *SIZE)
    flow[0] = 2
    error = torch.zeros(SIZE, dtype=torch.bool)
    error[3] = True
    evidence = Evidence(*(torch.zeros(1, *SIZE) for _ in range(3)), torch.ones(1), torch.zeros(1).long())
    visit = Visit(evidence, torch.zeros(3, *SIZE), flow, error)
    place = (slice(2, 8), slice(10, 20))
    ramp = torch.arange(10.0).expand(1, 1, 6, 10)
    seen, known = visit.bring_home(ramp, place)
    assert seen[0, 0, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 0]
    assert known[0].tolist() == [True] * 8 + [False] * 2  # two leave the part
    assert not known[1].any()  # the way is in error


@pytest.mark.parametrize(
    ("target", "anchors", "offsets"),
    [
        (0, (0, 8), {1, 2, 3, 4}),
        (8, (0, 8), {-1, -2, -3, -4}),
        (4, (4,), {-4, -3, -2, -1, 1, 2, 3, 4}),
        (1, (1, 2), {-1}),
    ],
)
def test_frames_nearer_to_this_anchor_than_to_the_next_are_visited(
    target: int, anchors: tuple[int, ...], offsets: set[int]
) -> None:
    count = 9 if anchors[-1] != 2 else 3
    assert set(module(unlabelled=1.0).walk(standing_window(target, anchors, count)).visits) == offsets
    assert not module().walk(standing_window(target, anchors, count)).visits


def test_a_visit_sees_what_inference_sees() -> None:
    window = standing_window()
    visits = module(unlabelled=1.0).walk(window).visits
    interval = ClipBatch("clip", window.stems, 0, window.frames, window.labels, (0, 9))
    for index, evidence in walk_interval(interval, FlowCache(Slow(True))):
        if index in visits:
            assert evidence is not None
            for seen, wanted in zip(vars(visits[index].evidence).values(), vars(evidence).values(), strict=True):
                assert torch.equal(seen, wanted)


@pytest.mark.parametrize("options", [{"unlabelled": 1.0}, {"consistency": 1.0}])
def test_what_is_refined_without_a_label_is_compared_at_home(options: dict[str, float]) -> None:
    window, losses = standing_window(), []
    for shift in (0, 2):
        torch.manual_seed(0)
        made = module(**options, net=Says())
        walk = made.walk(window)
        made.net.by = shift if options.get("unlabelled") else 0
        if "consistency" in options:  # the frame without a label alone is answered otherwise
            made.net = _Differently(shift)
        loss = made.loss_of_visit(walk, window)
        loss.backward()
        assert made.net.shift.grad is not None
        losses.append(float(loss.detach()))
    assert losses[0] < 0.5 * losses[1]


class _Differently(Says):
    def forward(self, inputs: RefinerInput) -> Tensor:
        answer = super().forward(inputs)
        return torch.cat((answer[:1].roll(self.by, -1), answer[1:].roll(-self.by, -1))) if self.by else answer


def test_only_what_is_seen_right_from_the_frame_itself_counts() -> None:
    frames = []

    class Notes(Says):
        def forward(self, inputs: RefinerInput) -> Tensor:
            frames.append(inputs.image[0].mean())
            return super().forward(inputs)

    made, window = module(unlabelled=1.0, net=Notes(2)), standing_window()
    window.frames = [torch.full((3, *SIZE), 10 * i, dtype=torch.uint8) for i in range(9)]
    walk = made.walk(window)
    assert float(made.loss_of_visit(walk, window).detach()) > 0
    assert round(float(frames[0]) * 25.5) in walk.visits  # each frame is brighter by 10 of 255
    for visit in walk.visits.values():
        visit.error[:] = True
    assert float(made.loss_of_visit(walk, window).detach()) == 0


def test_visits_come_back_from_their_file() -> None:
    walk = module(consistency=1.0).walk(standing_window())
    found = WalkCache(2**20).get("walk", lambda: walk)
    assert found.nbytes() == walk.nbytes()
    assert found.visits.keys() == walk.visits.keys()
    for offset, visit in walk.visits.items():
        assert torch.equal(found.visits[offset].flow, visit.flow)
        assert torch.equal(found.visits[offset].evidence.labels, visit.evidence.labels)


def test_a_step_learns_from_frames_without_a_label() -> None:
    torch.manual_seed(0)
    made = module(unlabelled=0.5, consistency=1.0)
    assert torch.isfinite(made.training_step(standing_window(), 0))
