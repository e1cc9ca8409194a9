"""What is known about a frame to be labelled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wrp.modules.targets import Target
from wrp.ops.fusion import Evidence


def target(teacher: Tensor) -> Target:
    """A row of four pixels between two anchors, each of which has two sources."""
    labels = torch.tensor([[[0, 1, 2, 255]], [[0, 1, 1, 255]], [[0, 0, 2, 255]], [[0, 0, 255, 255]]], dtype=torch.uint8)
    nothing = torch.zeros(labels.shape)
    anchor = torch.tensor([0, 0, 1, 1])
    evidence = Evidence(labels, nothing > 0, nothing.half(), torch.ones(4), anchor)
    return Target(torch.zeros(3, 1, 4, dtype=torch.uint8), 1, {}, evidence, lambda _: teacher)


@pytest.mark.parametrize(("asked", "expected"), [(False, [3, 1, 3, 0]), (True, [7, 1, 3, 4])])
def test_each_anchor_and_the_teacher_say_a_label_once(asked: bool, expected: list[int]) -> None:
    teacher = torch.nn.functional.one_hot(torch.tensor([[0, 2, 0, 2]]), 3).permute(2, 0, 1).float()
    frame = target(teacher)
    if asked:
        assert frame.semantic.shape == (3, 1, 4)
    source = frame.who_says(torch.tensor([[0, 1, 2, 2]], dtype=torch.uint8))
    assert source is not None
    assert source.tolist() == [expected]
    assert source.dtype == torch.uint8


def test_nobody_says_an_unknown_label() -> None:
    source = target(torch.zeros(3, 1, 4)).who_says(torch.full((1, 4), 255, dtype=torch.uint8))
    assert source is not None
    assert source.tolist() == [[0, 0, 0, 0]]
