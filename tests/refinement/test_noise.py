"""Synthetic noise: it moves, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wrp.refinement.noise import displace

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


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 96)])
def test_labels_of_any_size_are_taken_and_left_as_they_were(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    for fill in (3, IGNORE):
        labels = torch.full((3, *size), fill, dtype=torch.uint8)
        copy = labels.clone()
        noisy = displace(labels, 3.0)
        assert noisy.shape == labels.shape
        assert noisy.dtype == torch.uint8
        assert set(noisy.unique().tolist()) <= {fill, IGNORE}
        assert torch.equal(labels, copy)
