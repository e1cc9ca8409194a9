import pytest
import torch
from torch import Tensor

from tests.motions import MOTIONS, analytic_flow
from wrp.geometry.consistency import forward_backward_error, photometric_error, to_unit


def constant(x: float, y: float = 0.0, height: int = 6, width: int = 10) -> Tensor:
    return torch.tensor([x, y]).view(1, 2, 1, 1).repeat(1, 1, height, width)


@pytest.mark.parametrize("name", MOTIONS)
def test_consistent_flow_fails_only_where_it_leaves_the_frame(name: str) -> None:
    there, back = analytic_flow(MOTIONS[name], 0, 1), analytic_flow(MOTIONS[name], 1, 0)
    failed = forward_backward_error(there, back)[0]
    assert not failed[3:-3, 3:-3].any()


def test_what_leaves_the_frame_fails() -> None:
    failed = forward_backward_error(constant(3), constant(-3))
    assert torch.equal(failed[0], (torch.arange(10) >= 7).repeat(6, 1))


@pytest.mark.parametrize(
    ("returned", "fails"), [(-4.0, False), (-3.15, False), (-3.1, True), (-4.9, False), (-5.0, True)]
)
def test_tolerance_is_relative_to_the_squared_motion_plus_a_constant(returned: float, fails: bool) -> None:
    """|4 + r|² > 0.01 (4² + r²) + 0.5, at the left, whose points are in the frame."""
    assert ((4 + returned) ** 2 > 0.01 * (16 + returned**2) + 0.5) is fails  # the numbers above, by hand
    assert forward_backward_error(constant(4), constant(returned))[0, :, :6].unique().tolist() == [fails]


def test_what_leaves_the_frame_fails_however_little_it_moves() -> None:
    failed = forward_backward_error(constant(0.6), constant(-0.6))
    assert torch.equal(failed[0], (torch.arange(10) == 9).repeat(6, 1))


def test_tolerances_can_be_chosen() -> None:
    there, back = constant(4), constant(-3)
    assert not forward_backward_error(there, back, alpha=0.05, beta=0.0)[0, 0, 0]
    assert forward_backward_error(there, back, alpha=0.03, beta=0.0)[0, 0, 0]
    assert not forward_backward_error(there, back, alpha=0.0, beta=1.0)[0, 0, 0]
    assert forward_backward_error(there, back, alpha=0.0, beta=0.99)[0, 0, 0]


def test_returning_flow_is_read_where_the_point_arrives() -> None:
    there, back = constant(4), torch.zeros(1, 2, 6, 10)
    back[:, 0, :, 5] = -4
    assert forward_backward_error(there, back)[0, 0].tolist() == [True, False] + [True] * 8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_flow_that_is_not_finite_fails_in_either_direction(value: float) -> None:
    fine, broken = constant(0), constant(0)
    broken[0, 1, 3, 3] = value
    assert forward_backward_error(broken, fine)[0, 3, 3]
    assert forward_backward_error(broken, fine).sum() == 1
    assert forward_backward_error(fine, broken)[0, 3, 3]
    assert not forward_backward_error(fine, broken)[0, 0].any()


def test_a_batch_equals_a_loop() -> None:
    there, back = torch.randn(3, 2, 7, 9), torch.randn(3, 2, 7, 9)
    together = forward_backward_error(there, back)
    for i in range(3):
        assert torch.equal(forward_backward_error(there[i : i + 1], back[i : i + 1])[0], together[i])


def test_photometric_error_is_the_mean_over_channels_and_window() -> None:
    frame = torch.zeros(1, 3, 7, 7)
    warped = frame.clone()
    warped[0, 0, 3, 3] = 0.75
    error = photometric_error(frame, warped, window=3)
    expected = torch.zeros(1, 7, 7)
    expected[0, 2:5, 2:5] = 0.75 / 3 / 9
    torch.testing.assert_close(error, expected)


def test_photometric_error_counts_only_pixels_of_the_frame_at_its_border() -> None:
    error = photometric_error(torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 0.4))
    torch.testing.assert_close(error, torch.full((2, 4, 5), 0.4))


def test_photometric_error_is_symmetric_and_zero_for_equal_frames() -> None:
    a, b = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(photometric_error(a, b), photometric_error(b, a))
    assert not photometric_error(a, a).any()


def test_to_unit_maps_bytes_to_zero_and_one() -> None:
    unit = to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit, torch.tensor([0, 0.2, 1.0]))
