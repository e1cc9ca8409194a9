"""What every propagation method has to keep to; a new one is tested by its line in METHODS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.propagation.test_warping import INTERVALS, SIZE, stretch
from wrp import PropagationModule
from wrp.propagation.methods import METHODS as KNOWN
from wrp.structures import IGNORE_INDEX, ClipBatch, Prediction, RefinerInput

CLASSES = 5
METHODS = [*KNOWN, *(f"{name}:{which}" for name, kind in KNOWN.items() for which in sorted(kind.works_from))]


class Teacher(nn.Module):
    """Knows the class by the brightness of the pixel."""

    num_classes = CLASSES

    def probabilities(self, images: Tensor) -> Tensor:
        scores = -(images.float().mean(1, keepdim=True) / 51 - torch.arange(CLASSES).view(1, -1, 1, 1)).abs()
        return scores.softmax(1)


class Believer(nn.Module):
    """A refiner that changes nothing."""

    num_classes = CLASSES

    def forward(self, inputs: RefinerInput) -> Tensor:
        return inputs.prior.clamp(min=1e-6).log()


def run(method: str, batch: ClipBatch) -> list[Prediction]:
    return list(PropagationModule(CLASSES, [method], Teacher(), Believer()).session(batch))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", INTERVALS.values(), ids=INTERVALS)
def test_every_frame_has_a_label_and_an_honest_confidence(method: str, batch: ClipBatch) -> None:
    results = run(method, batch)
    assert [result.index for result in results] == list(range(*batch.queries))
    for result, again in zip(results, run(method, batch), strict=True):
        assert result.method == ("keyframe" if result.index in batch.labels else method)
        assert result.labels.shape == SIZE
        assert result.labels.dtype == torch.uint8
        assert ((result.labels < CLASSES) | (result.labels == IGNORE_INDEX)).all()
        assert result.confidence.dtype == torch.float32
        assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
        assert torch.equal(result.confidence == 0, result.labels == IGNORE_INDEX)
        assert torch.equal(result.labels, again.labels)


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
        raise AssertionError("not asked for")

    monkeypatch.setattr("wrp.propagation.session.WarpedLabels", never)
    for method in ("copy", "semantic", "vote-once", "vote"):
        assert len(run(method, INTERVALS["between two keyframes"])) == 6
