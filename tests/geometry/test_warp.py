import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.warp import compose, coordinates, sample, sample_nearest, warp, warp_labels

IGNORE = 255


def constant_flow(x: float, y: float, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.tensor([x, y]).view(1, 2, 1, 1).repeat(batch, 1, height, width)


def shifted(labels: Tensor, dx: int, dy: int, fill: int = IGNORE) -> Tensor:
    """What label (H, W) arrives at x from x + (dx, dy), pixel by pixel."""
    height, width = labels.shape
    result = torch.full_like(labels, fill)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                result[y, x] = labels[y + dy, x + dx]
    return result


def random_labels(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randint(0, 200, (batch, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def random_flow(height: int, width: int, batch: int, size: float = 4.0) -> Tensor:
    return size * torch.randn(batch, 2, height, width, generator=torch.Generator().manual_seed(2))


def test_coordinates_of_no_flow_have_x_first_and_centres_at_whole_numbers() -> None:
    coords, valid = coordinates(torch.zeros(1, 2, 2, 3))
    assert coords[0].tolist() == [[[0, 1, 2], [0, 1, 2]], [[0, 0, 0], [1, 1, 1]]]
    assert valid.all()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (-1, 0), (0, 2), (0, -2), (3, -1), (-5, 4), (7, 0), (-7, 0)])
def test_labels_follow_whole_pixel_shifts(dx: int, dy: int) -> None:
    labels = random_labels(5, 7)
    moved = warp_labels(labels, constant_flow(dx, dy, 5, 7))
    assert torch.equal(moved[0], shifted(labels[0], dx, dy))


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (-1, 0), (0, 2), (3, -1), (-5, 4), (7, 0), (0, -5)])
def test_images_follow_whole_pixel_shifts_and_are_zero_where_invalid(dx: int, dy: int) -> None:
    image = torch.rand(5, 7) + 1
    moved, valid = warp(image[None, None], constant_flow(dx, dy, 5, 7))
    expected = shifted(image, dx, dy, 0)
    assert torch.equal(valid[0], expected > 0)
    torch.testing.assert_close(moved[0, 0], expected, atol=1e-5, rtol=0)


def test_half_pixel_shift_averages_neighbours() -> None:
    image = torch.tensor([[0.0, 1, 5, 3], [2, 4, 0, 8]])[None, None]
    moved, valid = warp(image, constant_flow(0.5, 0, 2, 4))
    assert valid[0].tolist() == [[True, True, True, False]] * 2
    torch.testing.assert_close(moved[0, 0, :, :3], torch.tensor([[0.5, 3, 4], [3, 2, 4]]))
    moved, valid = warp(image, constant_flow(0, -0.5, 2, 4))
    assert valid.all()  # a frame reaches half a pixel beyond the centres of its border
    torch.testing.assert_close(moved[0, 0], torch.tensor([[0.0, 1, 5, 3], [1, 2.5, 2.5, 5.5]]))


def test_half_a_pixel_of_a_label_goes_to_one_neighbour_and_never_between() -> None:
    labels = torch.tensor([[[10, 20, 30, 40]]], dtype=torch.uint8)
    assert warp_labels(labels, constant_flow(0.5, 0, 1, 4)).tolist() == [[[20, 30, 40, IGNORE]]]
    assert warp_labels(labels, constant_flow(-0.5, 0, 1, 4)).tolist() == [[[10, 20, 30, 40]]]
    assert warp_labels(labels, constant_flow(0.49, 0, 1, 4)).tolist() == [[[10, 20, 30, 40]]]


@pytest.mark.parametrize(
    ("position", "inside"), [(-0.51, False), (-0.5, True), (-0.49, True), (3.49, True), (3.5, False), (3.51, False)]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_frame_covers_half_a_pixel_around_its_centres(position: float, inside: bool, axis: int) -> None:
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, axis] = position - coordinates(flow)[0][0, axis]
    assert coordinates(flow)[1].all().item() is inside
    assert coordinates(flow)[1].any().item() is inside


@pytest.mark.parametrize("far", [-1e9, -3.0, 3.0, 1e9, 3e38, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_leaves_the_frame_or_is_not_finite_is_invalid_and_never_a_label(far: float, axis: int) -> None:
    flow = torch.zeros(1, 2, 3, 3)
    flow[0, axis, 1, 1] = far
    coords, valid = coordinates(flow)
    assert valid.sum() == 8
    assert not valid[0, 1, 1]
    assert torch.isfinite(coords).all()
    assert ((coords >= 0) & (coords <= 2)).all()
    labels = warp_labels(torch.full((1, 3, 3), 7, dtype=torch.uint8), flow)
    assert labels[0, 1, 1] == IGNORE
    assert (labels == 7).sum() == 8
    values, valid = warp(torch.ones(1, 2, 3, 3), flow)
    assert not valid[0, 1, 1]
    assert values[0, :, 1, 1].tolist() == [0, 0]


def test_values_that_are_not_finite_do_not_leak_from_outside_of_the_frame() -> None:
    values, valid = warp(torch.full((1, 1, 2, 2), float("nan")), constant_flow(9, 0, 2, 2))
    assert not valid.any()
    assert torch.equal(values, torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_labels_keep_their_dtype(dtype: torch.dtype) -> None:
    labels = random_labels(4, 6).to(dtype)
    moved = warp_labels(labels, constant_flow(1, 0, 4, 6))
    assert moved.dtype == dtype
    assert moved[0, :, -1].tolist() == [IGNORE] * 4


def test_another_ignore_index_marks_what_is_outside() -> None:
    moved = warp_labels(torch.zeros(1, 1, 2, dtype=torch.long), constant_flow(1, 0, 1, 2), ignore_index=-1)
    assert moved.tolist() == [[[0, -1]]]


def test_ignored_labels_travel_like_any_other() -> None:
    labels = torch.tensor([[[1, IGNORE, 3]]], dtype=torch.uint8)
    assert warp_labels(labels, constant_flow(1, 0, 1, 3)).tolist() == [[[IGNORE, 3, IGNORE]]]


def test_a_batch_equals_a_loop() -> None:
    flow, images, labels = random_flow(9, 13, 4), torch.rand(4, 3, 9, 13), random_labels(9, 13, 4)
    warped, valid = warp(images, flow)
    moved = warp_labels(labels, flow)
    for i in range(4):
        one = slice(i, i + 1)
        torch.testing.assert_close(warp(images[one], flow[one])[0], warped[one], atol=1e-6, rtol=0)
        assert torch.equal(warp(images[one], flow[one])[1], valid[one])
        assert torch.equal(warp_labels(labels[one], flow[one]), moved[one])


def test_bilinear_samples_equal_the_formula() -> None:
    values = torch.rand(2, 3, 6, 8)
    coords = torch.stack((torch.rand(2, 5, 4) * 7, torch.rand(2, 5, 4) * 5), 1)
    sampled = sample(values, coords)
    for b in range(2):
        for row in range(5):
            for column in range(4):
                x, y = coords[b, :, row, column].tolist()
                x0, y0 = min(int(x), 6), min(int(y), 4)
                corner = values[b, :, y0 : y0 + 2, x0 : x0 + 2]
                weights = torch.outer(torch.tensor([1 - y + y0, y - y0]), torch.tensor([1 - x + x0, x - x0]))
                expected = (corner * weights).sum((1, 2))
                torch.testing.assert_close(sampled[b, :, row, column], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_frames_of_one_row_or_column_can_be_sampled(size: tuple[int, int]) -> None:
    values = torch.rand(1, 2, *size)
    torch.testing.assert_close(warp(values, torch.zeros(1, 2, *size))[0], values)


def test_nearest_samples_keep_booleans_and_floats() -> None:
    coords = torch.tensor([[0.4, 0.6], [1.4, 2.0]]).view(1, 2, 1, 2)  # (x, y) = (0.4, 1.4) and (0.6, 2.0)
    values = torch.arange(6).view(1, 3, 2)
    assert sample_nearest(values, coords).tolist() == [[[2, 5]]]
    assert sample_nearest(values > 2, coords).tolist() == [[[False, True]]]
    assert sample_nearest(values / 2, coords).dtype == torch.float32


def test_composing_two_shifts_adds_them() -> None:
    flow = compose(constant_flow(2, -1, 6, 8), constant_flow(-0.5, 3, 6, 8))
    torch.testing.assert_close(flow, constant_flow(1.5, 2, 6, 8))


def test_composing_reads_the_second_flow_at_the_point_and_not_in_place() -> None:
    step = constant_flow(2, 0, 1, 6)
    second = torch.zeros(1, 2, 1, 6)
    second[0, 1, 0, 4] = 5.0
    flow = compose(step, second)
    assert flow[0, 1, 0].tolist() == [0, 0, 5, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coordinates_are_float32_under_autocast(dtype: torch.dtype) -> None:
    height, width = 4, 1300  # bfloat16 holds whole numbers up to 256 only, float16 up to 2048
    flow = constant_flow(0.25, 0, height, width)
    labels = (torch.arange(width) % 251).to(torch.uint8).repeat(1, height, 1)
    image = torch.arange(width, dtype=torch.float32).repeat(1, 1, height, 1)
    reference, reference_labels = warp(image, flow)[0], warp_labels(labels, constant_flow(-900, 0, height, width))
    with torch.autocast("cpu", dtype):
        warped, _ = warp(image, flow)
        coords, _ = coordinates(flow)
        moved = warp_labels(labels, constant_flow(-900, 0, height, width))
        composed = compose(flow, flow)
    assert warped.dtype == coords.dtype == composed.dtype == torch.float32
    torch.testing.assert_close(warped, reference, atol=1e-3, rtol=0)
    assert torch.equal(moved, reference_labels)


def test_half_precision_values_are_sampled_at_full_precision_coordinates() -> None:
    image = (torch.arange(1300) % 2).to(torch.float16).repeat(1, 1, 2, 1)
    moved, _ = warp(image, constant_flow(1, 0, 2, 1300))
    torch.testing.assert_close(moved[0, 0, 0, :-1], image[0, 0, 0, 1:].float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("which", ["values", "coords"])
def test_gradient_of_bilinear_samples_agrees_with_finite_differences(which: str) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(1, 2, 5, 6, generator=generator)
    coords = torch.rand(1, 2, 3, 3, generator=generator) * 0.6 + torch.randint(0, 4, (1, 2, 3, 3), generator=generator)
    coords = coords + 0.2  # away from whole numbers, where bilinear sampling has kinks
    weights = torch.rand(1, 2, 3, 3, generator=generator)
    tensors = {"values": values.requires_grad_(), "coords": coords.requires_grad_()}
    (sample(values, coords) * weights).sum().backward()
    wanted, step = tensors[which], 1e-2
    assert wanted.grad is not None
    with torch.no_grad():
        for position in range(wanted.numel()):
            change = torch.zeros(wanted.numel())
            change[position] = step
            change = change.view_as(wanted)
            above, below = (
                (sample(*(t + sign * change if name == which else t for name, t in tensors.items())) * weights).sum()
                for sign in (1, -1)
            )
            slope = (above - below) / (2 * step)
            assert abs(slope - wanted.grad.flatten()[position]) < 5e-3


def test_gradient_reaches_the_flow_and_stays_finite_for_a_flow_that_is_not() -> None:
    flow = random_flow(6, 6, 1, size=1.0)
    flow[0, 0, 2, 2] = float("nan")
    flow.requires_grad_()
    image = functional.avg_pool2d(torch.rand(1, 1, 8, 8), 3, 1)
    warp(image, flow)[0].sum().backward()
    assert flow.grad is not None
    assert torch.isfinite(flow.grad).all()
    assert (flow.grad != 0).any()
