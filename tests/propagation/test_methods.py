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
