"""Synthetic noise: it moves, drops and renames, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wrp.ops.noise import THIN, corrupt, displace, drop_thin, swap_classes

IGNORE = 255


def street() -> Tensor:
    """A wide area of class 1 in class 0, and a pole of class 2."""
    label = torch.zeros(64, 96, dtype=torch.uint8)
    label[40:] = 1
    label[10:40, 50:53] = 2
    return label


def test_a_displacement_of_nothing_changes_nothing() -> None:
    labels = street()[None].repeat(2, 1, 1)
    assert torch.equal(displace(labels, 0.0), labels)


def test_a_displacement_grows_with_its_amplitude_and_differs_between_maps() -> None:
    torch.manual_seed(0)
    labels = street()[None].repeat(2, 1, 1)
    changed = [float((displace(labels, amplitude) != labels).float().mean()) for amplitude in (0.5, 2.0, 8.0)]
    assert 0 < changed[0] < changed[1] < changed[2] < 0.5
    first, second = displace(labels, 4.0)
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) <= {0, 1, 2, IGNORE}


def test_thin_parts_are_lost_and_wide_ones_are_not() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        lost = drop_thin(street())
        assert torch.equal(lost[:, :45], street()[:, :45])
        if not (lost == 2).any():
            assert (lost[10:40, 50:53] == 0).all(), "what is beside the pole takes over"
            break
    else:
        pytest.fail("the pole was never lost")
    assert THIN > 3


def test_a_class_takes_the_name_of_another_in_some_part() -> None:
    torch.manual_seed(1)
    changed = [swap_classes(street()) for _ in range(20)]
    shares = [float((label != street()).float().mean()) for label in changed]
    assert 0 < max(shares) <= 0.25 + 1e-6
    for label in changed:
        for old in range(3):
            assert len(label[(street() == old) & (label != old)].unique()) <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 96)])
def test_labels_of_any_size_are_taken_and_left_as_they_were(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    for fill in (3, IGNORE):
        labels = torch.full((3, *size), fill, dtype=torch.uint8)
        copy = labels.clone()
        for noisy in (displace(labels, 3.0), corrupt(labels)):
            assert noisy.shape == labels.shape
            assert noisy.dtype == torch.uint8
            assert set(noisy.unique().tolist()) <= {fill, IGNORE}
        assert torch.equal(labels, copy)
