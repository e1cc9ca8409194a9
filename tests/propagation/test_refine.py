"""The votes among refined labels of frames around one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.propagation.small import CLASSES, BrightnessTeacher, IdentityRefiner
from tests.refinement.small import SIZE, Constant, Slow
from wrp import PropagationModule
from wrp.flow.estimator import FlowEstimator
from wrp.propagation.methods.base import Context, PropagationMethod, QueryFrame
from wrp.propagation.methods.refine import Answers, Refine
from wrp.structures import ClipBatch, Prediction
from wrp.testing import texture

COUNT = 19
WRONG = 8
VOTERS = Refine.voters


def interval(later: int = 0) -> ClipBatch:
    """A scene that stands still between two keyframes, the earlier all of class 0."""
    labels = {0: torch.zeros(SIZE, dtype=torch.uint8), COUNT - 1: torch.full(SIZE, later, dtype=torch.uint8)}
    names = [str(i) for i in range(COUNT)]
    return ClipBatch("clip", names, 0, [texture(*SIZE, 0)] * COUNT, labels, (0, COUNT))


def label(
    batch: ClipBatch, monkeypatch: pytest.MonkeyPatch, flow: FlowEstimator | None = None, method: str = "refine"
) -> tuple[list[Prediction], list[int]]:
    """Labels with a refiner that takes one frame for class 1, and the frames that it was asked about."""
    asked = []

    def answers(self: Refine, queries: Sequence[QueryFrame], context: Context) -> Tensor:
        asked.extend(query.index for query in queries)
        probs = torch.zeros(len(queries), CLASSES, *SIZE)
        for number, query in enumerate(queries):
            probs[number, :2] = torch.tensor([0.4, 0.6] if query.index == WRONG else [0.9, 0.1]).view(2, 1, 1)
        return probs

    monkeypatch.setattr(Refine, "answers", answers)
    module = PropagationModule(CLASSES, [method], BrightnessTeacher(), IdentityRefiner(), flow or Slow(True))
    if batch.held_out:
        list(module.at_held_out(batch))
    return list(module.session(batch)) if not batch.held_out else [], asked


def test_frames_around_outvote_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    results, asked = label(interval(), monkeypatch)
    assert all((result.labels == 0).all() for result in results)
    voted = (0.4 + 2 * len(VOTERS) * Refine.vote * 0.9) / (1 + 2 * len(VOTERS) * Refine.vote)
    torch.testing.assert_close(results[WRONG].confidence, torch.full(SIZE, voted), atol=3e-3, rtol=0)
    assert sorted(asked) == list(range(1, COUNT - 1))  # each once, and no keyframe


def test_a_way_that_fails_its_test_brings_no_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Back(Constant):
        """Both ways lead to the right, so that no way returns."""

        def estimate(self, frames_s: Tensor, *_: Any) -> Tensor:
            return torch.full((len(frames_s), 2, *frames_s.shape[2:]), 2.0)

    results, _ = label(interval(), monkeypatch, Back(False))
    assert (results[WRONG].labels == 1).all()
    torch.testing.assert_close(results[WRONG].confidence, torch.full(SIZE, 0.6), atol=3e-3, rtol=0)


def test_votes_come_along_the_flow_from_where_the_scene_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(index: int) -> Tensor:
        return (torch.arange(SIZE[1]) - 2 * index).div(5, rounding_mode="floor").remainder(3).expand(SIZE)

    def answers(self: Refine, queries: Sequence[QueryFrame], context: Context) -> Tensor:
        scenes = torch.stack([scene(query.index) + (1 if query.index == WRONG else 0) for query in queries])
        return 0.8 * functional.one_hot(scenes % 3, CLASSES).movedim(-1, 1).float() + 0.2 / CLASSES

    monkeypatch.setattr(Refine, "answers", answers)
    module = PropagationModule(CLASSES, ["refine"], BrightnessTeacher(), IdentityRefiner(), Constant(False))
    results = list(module.session(interval()))
    border = 2 * max(VOTERS)
    inside = (slice(None), slice(border, -border))
    assert torch.equal(results[WRONG].labels[inside].long(), scene(WRONG)[inside])


@pytest.mark.parametrize(("method", "heard"), [("refine", True), ("refine:nearest", True), ("refine:previous", False)])
def test_an_keyframe_votes_with_its_label_where_it_is_asked(
    method: str, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = label(interval(later=2), monkeypatch, method=method)
    beside = results[COUNT - 1 - VOTERS[0]].confidence
    others = Refine.vote * len(VOTERS)
    expected = 0.9 * (1 + others) / (1 + others + (Refine.vote if heard else 0))
    torch.testing.assert_close(beside, torch.full(SIZE, expected), atol=3e-3, rtol=0)


def test_a_score_asks_about_the_frames_that_vote_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = replace(interval(), held_out={8: torch.zeros(SIZE, dtype=torch.uint8)})
    _, asked = label(batch, monkeypatch)
    assert sorted(asked) == sorted({8, *(8 + d for d in VOTERS), *(8 - d for d in VOTERS)})


def test_what_is_not_needed_any_more_is_let_go() -> None:
    kept: list[set[int]] = []

    class Watched(Refine):
        def predict(self, query: QueryFrame, state: Answers) -> tuple[Tensor, Tensor]:
            made = super().predict(query, state)
            assert set(query.neighbours) <= set(range(query.index - max(VOTERS), query.index + max(VOTERS) + 1))
            kept.append(set(state.probs) | set(state.flows))
            assert min(kept[-1]) >= query.index - max(VOTERS)
            return made

    class Watching(PropagationModule):
        known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = {"refine": Watched}

    list(Watching(CLASSES, ["refine"], BrightnessTeacher(), IdentityRefiner(), Slow(True)).session(interval()))
    assert len(kept) == COUNT - 2
    assert max(map(len, kept)) <= 2 * max(VOTERS) + 1
