"""Which of what a method was given agrees with its labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wrp.geometry.fusion import WarpedLabels
from wrp.geometry.labels import argmax_frame
from wrp.propagation.methods import make_methods
from wrp.propagation.methods.base import Known, Labels, QueryFrame
from wrp.propagation.provenance import provenance


def agreeing(method: str, labels: list[int], teacher: Tensor) -> Tensor | None:
    """Of a row of four pixels between two keyframes, each of which has two sources."""
    maps = torch.tensor([[[0, 1, 2, 255]], [[0, 1, 1, 255]], [[0, 0, 2, 255]], [[0, 0, 255, 255]]], dtype=torch.uint8)
    nothing = torch.zeros(maps.shape)
    warped = WarpedLabels(maps, nothing > 0, nothing.half(), torch.ones(4), torch.tensor([0, 0, 1, 1]))
    decision = Labels(*argmax_frame(teacher))
    image, earlier = torch.zeros(3, 1, 4, dtype=torch.uint8), warped.of_keyframe(0)
    known = Known(1, image, {}, warped, earlier, lambda: teacher, lambda: decision)
    [made] = make_methods([method]).values()
    query = QueryFrame(known, made.needs, made.keyframes, {1: known})
    return provenance(torch.tensor([labels], dtype=torch.uint8), query, made)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("motion", [3, 1, 3, 0]),
        ("motion:previous", [1, 1, 1, 0]),
        ("inpaint", [7, 1, 3, 4]),
        ("semantic", [4, 0, 0, 4]),
    ],
)
def test_each_keyframe_and_the_teacher_count_once_where_the_method_was_given_them(
    method: str, expected: list[int]
) -> None:
    teacher = torch.nn.functional.one_hot(torch.tensor([[0, 2, 0, 2]]), 3).permute(2, 0, 1).float()
    found = agreeing(method, [0, 1, 2, 2], teacher)
    assert found is not None
    assert found.tolist() == [expected]
    assert found.dtype == torch.uint8


def test_nothing_agrees_with_an_unknown_label() -> None:
    found = agreeing("inpaint", [255] * 4, torch.zeros(3, 1, 4))
    assert found is not None
    assert found.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("method", ["copy", "vote", "vote-once"])
def test_a_method_that_was_given_neither_has_no_provenance(method: str) -> None:
    assert agreeing(method, [0] * 4, torch.zeros(3, 1, 4)) is None
