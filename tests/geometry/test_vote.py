import math

import pytest
import torch
from torch import Tensor

from wrp.geometry.vote import push_labels, source_weights


def push(labels: Tensor, flow: Tensor) -> Tensor:
    return push_labels(labels, flow)


def test_labels_land_where_the_flow_leads() -> None:
    labels = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    flow = torch.zeros(2, 1, 4)
    flow[0] = 1
    assert push(labels, flow).tolist() == [[255, 0, 1, 2]]


def test_of_several_that_land_on_one_pixel_the_greatest_class_wins_in_any_order() -> None:
    for first, second in ((1, 4), (4, 1)):
        labels = torch.tensor([[first, second, 255]], dtype=torch.uint8)
        flow = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])
        assert push(labels, flow).tolist() == [[255, 255, 4]]


def test_what_is_unlabelled_or_leaves_the_frame_says_nothing() -> None:
    labels = torch.tensor([[255, 0, 253]], dtype=torch.uint8)
    assert push(labels, torch.zeros(2, 1, 3)).tolist() == [[255, 0, 253]]
    assert push(labels, torch.full((2, 1, 3), 9.0)).tolist() == [[255, 255, 255]]
    assert push(labels, torch.full((2, 1, 3), float("nan"))).tolist() == [[255, 255, 255]]


@pytest.mark.parametrize("delta", [0.0, 0.25, 0.5, 1.0])
def test_weights_fall_with_the_distance_and_sum_to_one(delta: float) -> None:
    earlier, later = source_weights(delta)
    assert earlier + later == pytest.approx(1)
    assert earlier / later == pytest.approx(math.exp(-delta) / math.exp(-(1 - delta)))
    assert source_weights(1 - delta) == pytest.approx((later, earlier))
