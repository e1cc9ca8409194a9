"""What every propagation method has to fulfil, and what those of the package promise beyond it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.propagation.small import (
    CLASSES,
    INTERVALS,
    METHODS,
    BrightnessTeacher,
    IdentityRefiner,
    stretch,
)
from wrp import PropagationModule
from wrp.options import OWN_METHODS
from wrp.propagation.methods import METHODS as KNOWN
from wrp.propagation.methods import make_methods
from wrp.propagation.methods.base import PropagationMethod
from wrp.structures import IGNORE_INDEX, ClipBatch, Prediction
from wrp.testing import PropagationMethodTester


class TestMethods(PropagationMethodTester):
    @pytest.fixture(params=METHODS, autouse=True)
    def _name(self, request: pytest.FixtureRequest) -> None:
        self.name: str = request.param
        self.follows_keyframes = self.name != "semantic"

    def make(self) -> PropagationMethod[Any]:
        [made] = make_methods([self.name]).values()
        return made


def run(method: str, batch: ClipBatch) -> list[Prediction]:
    return list(PropagationModule(CLASSES, [method], BrightnessTeacher(), IdentityRefiner()).session(batch))


def test_the_command_line_knows_their_names() -> None:
    assert tuple(KNOWN) == OWN_METHODS


@pytest.mark.parametrize("method", [method for method in METHODS if method != "semantic"])
def test_where_nothing_moves_the_label_stays(method: str) -> None:
    batch = stretch((4, 10), 4, 10, (4, 10))
    batch.frames = [batch.frames[0]] * 7
    label = batch.labels[4]
    batch.labels = {4: label, 10: label}
    known = label != IGNORE_INDEX
    for result in run(method, batch):
        assert torch.equal(result.labels[known], label[known])
        if result.provenance is not None:
            agreeing = {"previous": 1, "nearest": 1 if result.index <= 7 else 2}.get(method.partition(":")[2], 3)
            assert result.method == "keyframe" or ((result.provenance[known] & 3) == agreeing).float().mean() > 0.9


def test_only_what_is_needed_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("warped though no method needs it")

    monkeypatch.setattr("wrp.propagation.session.IntervalWarper", never)
    for method in ("copy", "semantic", "vote-once", "vote"):
        assert len(run(method, INTERVALS["between two keyframes"])) == 6


@pytest.mark.parametrize("method", ["motion", "motion:nearest", "inpaint"])
def test_what_no_keyframe_shows_is_not_trusted(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ground = torch.randint(60, 140, (3, 12, 16), generator=generator).float()
    ground = torch.nn.functional.interpolate(ground[None], (96, 128), mode="bicubic")[0].clamp(0, 255).byte()
    frames = [ground.clone() for _ in range(7)]
    for number in range(1, 6):
        frames[number][:, 30:60, 20 * number - 10 : 20 * number + 20] = torch.tensor([220, 60, 50]).byte().view(3, 1, 1)
    label = torch.zeros(96, 128, dtype=torch.uint8)
    batch = ClipBatch("walk", [str(i) for i in range(7)], 0, frames, {0: label, 6: label}, (0, 7))
    result = run(method, batch)[3]
    unseen = torch.zeros(96, 128, dtype=torch.bool)
    unseen[30:60, 50:80] = True
    assert result.confidence[unseen].mean() < 0.7
    assert result.confidence[~unseen].mean() > 0.97
