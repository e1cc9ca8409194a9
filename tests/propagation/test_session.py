"""A session: many at once, some frames alone, closed early, and never larger than what lies around one frame."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.propagation.small import CLASSES, INTERVALS, METHODS, SIZE, BrightnessTeacher, IdentityRefiner, stretch
from tests.refinement.small import Constant
from wrp import PropagationModule
from wrp.errors import WrpError
from wrp.flow import cache
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.propagation.methods.base import Context, Needs, PropagationMethod, QueryFrame
from wrp.structures import Prediction

EVERY = ["copy", "motion", "vote-once", "vote", "semantic", "inpaint", "refine"]


def module(methods: list[str], flow: FlowCache | None = None) -> PropagationModule:
    return PropagationModule(CLASSES, methods, BrightnessTeacher(), IdentityRefiner(), flow)


def same(one: Prediction, other: Prediction) -> bool:
    whole = [(name, value) for name, value in vars(one).items() if not isinstance(value, Tensor)]
    tensors = [name for name, value in vars(one).items() if isinstance(value, Tensor)]
    return all(getattr(other, name) == value for name, value in whole) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in tensors
    )


def test_two_at_once_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "HELD_BYTES", 0)  # every flow goes to the disk
    first = stretch((4, 10), 4, 10, (4, 10))
    second = replace(stretch((0, 9), 0, 9, (0, 10)), clip="another")
    alone = [list(module(EVERY).session(batch)) for batch in (first, second)]
    together = module(EVERY)
    sessions = [iter(together.session(batch)) for batch in (first, second)]
    found: list[list[Prediction]] = [[], []]
    for turn in range(sum(map(len, alone))):
        for number in (turn % 2, 1 - turn % 2):
            if (made := next(sessions[number], None)) is not None:
                found[number].append(made)
    for theirs, mine in zip(alone, found, strict=True):
        assert all(same(*pair) for pair in zip(theirs, mine, strict=True))
    assert together.flow.misses == 6 + 9  # no flow was estimated twice


def test_what_is_not_finite_in_one_is_not_held_against_another() -> None:
    class Half(Constant):
        """The clip in its other colours has no flow."""

        def estimate(self, frames_s: Tensor, *rest: Any) -> Tensor:
            flow = super().estimate(frames_s, *rest)
            return flow * torch.nan if (frames_s.float().mean() < 100).any() else flow

    bright = stretch((4, 10), 4, 10, (4, 10))
    bright.frames = [frame // 2 + 128 for frame in bright.frames]  # type: ignore[attr-defined]
    dark = replace(bright, clip="dark", frames=[frame // 4 for frame in bright.frames])  # type: ignore[attr-defined]
    both = module(["motion"], FlowCache(Half(False)))
    good, bad = iter(both.session(bright)), iter(both.session(dark))
    count = 0
    for _ in range(5):
        count += next(good) is not None
        next(bad)
    next(bad)
    with pytest.raises(WrpError, match="clip dark, frames 4 … 10: .* not finite"):
        next(bad)
    assert count + len(list(good)) == 6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("only", [{6}, {4, 5, 9}, {8, 9, 10}, set()])
def test_some_frames_alone_are_those_of_all(method: str, only: set[int]) -> None:
    batch = INTERVALS["last, with its end"]
    whole = {made.index: made for made in module([method]).session(batch)}
    some = {made.index: made for made in module([method]).session(batch, only=only)}
    assert set(some) == only
    assert all(same(some[index], whole[index]) for index in only)


def test_frames_that_are_not_wanted_are_not_labelled() -> None:
    asked = []

    class Counted(BrightnessTeacher):
        def probabilities(self, images: Tensor) -> Tensor:
            asked.append(images)
            return super().probabilities(images)

    batch = stretch((0, 40), 0, 40, (0, 40))
    inpaint = PropagationModule(CLASSES, ["inpaint"], Counted())
    list(inpaint.session(batch, only={3}))
    assert len(asked) == 1
    assert inpaint.flow.misses == 40  # the later keyframe is far, the earlier one near


def test_it_can_be_gone_through_again() -> None:
    session = module(["motion", "vote"]).session(INTERVALS["between two keyframes"])
    first, second = list(session), list(session)
    assert all(same(*pair) for pair in zip(first, second, strict=True))


class Holding(PropagationMethod[dict[str, bool]]):
    """Tells what it holds open."""

    states: ClassVar[list[dict[str, bool]]] = []

    def start(self, context: Context) -> dict[str, bool]:
        self.states.append({"open": True})
        return self.states[-1]

    def predict(self, query: QueryFrame, state: dict[str, bool]) -> tuple[Tensor, Tensor]:
        return torch.zeros(SIZE, dtype=torch.uint8), torch.ones(SIZE)

    def close(self, state: dict[str, bool]) -> None:
        state["open"] = False


class Own(PropagationModule):
    known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = {
        **PropagationModule.known_methods,
        "holding": Holding,
    }


@pytest.mark.parametrize("methods", [["holding"], ["vote", "holding"], ["holding", "motion"]])
def test_closing_closes_what_was_opened(methods: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Holding.states.clear()
    files = []
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *a, **k: files.append(make(*a, **k)) or files[-1])
    session = Own(CLASSES, methods).session(INTERVALS["between two keyframes"])
    assert not Holding.states
    with session:
        predictions, others = iter(session), iter(session)
        next(predictions), next(predictions), next(others)
        assert [state["open"] for state in Holding.states] == [True, True]
    assert [state["open"] for state in Holding.states] == [False, False]
    assert all(file.closed for file in files)
    assert len(files) > 0 or methods == ["holding"]
    assert all(rest.index == 5 for rest in predictions)  # of the frame that was labelled


def test_an_error_closes_it_as_well() -> None:
    class Breaking(Holding):
        def predict(self, query: QueryFrame, state: dict[str, bool]) -> tuple[Tensor, Tensor]:
            raise WrpError("broken")

    class Broken(PropagationModule):
        known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = {"holding": Holding, "breaking": Breaking}

    Holding.states.clear()
    with pytest.raises(WrpError, match="broken"):
        list(Broken(CLASSES, ["holding", "breaking"]).session(INTERVALS["between two keyframes"]))
    assert Holding.states == [{"open": False}] * 2


def test_a_prediction_does_not_depend_on_the_other_methods() -> None:
    batch = INTERVALS["between two keyframes"]
    together: dict[str, list[Prediction]] = {method: [] for method in METHODS}
    for made in module(METHODS).session(batch):
        together.get(made.method, []).append(made)
    for method in METHODS:
        alone = [made for made in module([method]).session(batch) if made.method == method]
        assert all(same(*pair) for pair in zip(alone, together[method], strict=True))
        assert len(alone) == 5


@pytest.mark.parametrize("part", ["warped", "teacher", "flow", "neighbours"])
def test_a_method_gets_nothing_that_it_has_not_declared(part: str) -> None:
    class Sly(PropagationMethod):
        def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
            assert state.flow is state.refine is state.refiner is None
            assert list(query.neighbours) == [query.index]
            with pytest.raises(WrpError, match="add warped=True to its Needs"):
                _ = query.warped
            with pytest.raises(WrpError, match="add teacher=True to its Needs"):
                _ = query.teacher_probs
            return torch.zeros(SIZE, dtype=torch.uint8), torch.ones(SIZE)

    class Two(PropagationModule):
        known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = {
            **PropagationModule.known_methods,
            "sly": Sly,
        }

    methods = ["sly", "refine"] if part != "neighbours" else ["sly"]
    assert (
        len(list(Two(CLASSES, methods, BrightnessTeacher(), IdentityRefiner()).session(stretch((4,), 4, 9, (4, 10)))))
        > 5
    )


def test_a_method_refuses_keyframes_that_it_cannot_work_from() -> None:
    class Forward(PropagationMethod):
        works_from = frozenset({"previous"})

        def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

    class With(PropagationModule):
        known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = {"forward": Forward}

    assert With(CLASSES, ["forward:previous"]).chosen["forward:previous"].keyframes == "previous"
    with pytest.raises(WrpError, match="Forward works from previous, got 'both'"):
        With(CLASSES, ["forward"])
    with pytest.raises(WrpError, match="forward takes forward:previous"):
        With(CLASSES, ["forward:nearest"])


def test_neighbours_are_as_near_as_declared() -> None:
    seen = {}

    class Looking(PropagationMethod):
        needs = Needs(neighbours=2, teacher=True)

        def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
            seen[query.index] = sorted(query.neighbours)
            assert all(other.teacher_probs.shape[0] == CLASSES for other in query.neighbours.values())
            return query.teacher_labels

    class With(PropagationModule):
        known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = {
            **PropagationModule.known_methods,
            "looking": Looking,
        }

    list(
        With(CLASSES, ["looking", "refine"], BrightnessTeacher(), IdentityRefiner()).session(
            stretch((4, 10), 4, 10, (4, 10))
        )
    )
    assert seen == {5: [5, 6, 7], 6: [5, 6, 7, 8], 7: [5, 6, 7, 8, 9], 8: [6, 7, 8, 9], 9: [7, 8, 9]}


def test_calibration_counts_at_the_held_out_labels_alone() -> None:
    batch = stretch((0, 20), 0, 20, (0, 20))
    held_out = replace(batch, held_out={10: batch.labels[0].clone()})
    counted = module(["motion", "vote"], FlowCache(DIS()))
    asked: list[int] = []
    counted.flow.register_forward_hook(lambda *_: asked.append(1))
    counts = counted.count_confidence(held_out)
    assert len(asked) == 2 * 10  # ten frames from each side
    assert counts["motion"]["distances"] == counts["vote"]["distances"] == [10]


LONG = """
import sys
import resource
import torch
from wrp.testing import texture
from tests.propagation.small import CLASSES, IdentityRefiner, BrightnessTeacher
from wrp import PropagationModule
from wrp.flow.dis import DIS
from wrp.structures import ClipBatch

count, size = int(sys.argv[1]), (120, 160)
some = [texture(*size, 1.5 * i, 0) for i in range(20)]


class Late:
    def __len__(self):
        return count + 1

    def __getitem__(self, index):
        return some[abs((index + 19) % 38 - 19)].clone()


label = (torch.arange(size[1]).expand(size) // 32 % CLASSES).to(torch.uint8)
batch = ClipBatch("clip", [str(i) for i in range(count + 1)], 0, Late(), {0: label, count: label}, (0, count))
methods = ["motion", "vote", "inpaint", "refine"]
module = PropagationModule(CLASSES, methods, BrightnessTeacher(), IdentityRefiner(), DIS("ultrafast"))
made = sum(1 for _ in module.session(batch))
assert made == 4 * (count - 1) + 1, made
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_is_bounded_at_400_frames() -> None:
    peaks = []
    for frames in (100, 400):
        command = [sys.executable, "-c", LONG, str(frames)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]))
    # 300 further frames with warped labels, votes and flow would take 300 times 0.6 MB
    assert peaks[1] < peaks[0] + 60, peaks
