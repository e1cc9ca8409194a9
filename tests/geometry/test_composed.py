from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.motions import COMPOSED, HEIGHT, MOTIONS, WIDTH, Pose, analytic_flow, composed_far, composed_near, neighbours
from wrp.geometry.composed import ComposedFlow, NeighbourFlow, append_flow, identity_flow, prepend_flow
from wrp.geometry.warp import coordinates

Build = Callable[[list[NeighbourFlow], int, int, int, int], ComposedFlow]
WAYS = [(7, 0), (0, 7), (3, 4), (4, 3)]


def inside(flow: Tensor, margin: float = 0.0) -> Tensor:
    """(H, W) bool: the point is in the frame, at least ``margin`` pixels from its edge."""
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x + flow[0, 0], y + flow[0, 1]
    return (x >= margin - 0.5) & (x < width - 0.5 - margin) & (y >= margin - 0.5) & (y < height - 0.5 - margin)


def inside_all_the_way(pose: Pose, source: int, target: int, margin: float = 0.0) -> Tensor:
    step = 1 if target > source else -1
    frames = range(source, target + step, step)
    return torch.stack([inside(analytic_flow(pose, source, k), margin if k != source else 0) for k in frames]).all(0)


def constant(x: float, y: float, height: int, width: int) -> Tensor:
    return torch.tensor([x, y]).view(1, 2, 1, 1).repeat(1, 1, height, width)


def sliding(x: float, count: int, height: int, width: int) -> list[NeighbourFlow]:
    """A picture that slides to the right by x pixels a frame."""
    return [NeighbourFlow(constant(x, 0, height, width), constant(-x, 0, height, width))] * (count - 1)


def ends_inside(composed: ComposedFlow) -> Tensor:
    """(H, W) bool: the flow ends in the frame."""
    return coordinates(composed.flow)[1][0]


def test_a_chain_starts_as_identity() -> None:
    composed = identity_flow(torch.zeros(3, 5, dtype=torch.uint8))
    assert composed.flow.shape == (1, 2, 3, 5)
    assert composed.flow.dtype == torch.float32
    assert not composed.flow.any()
    assert not composed.error.any()
    assert composed.error.shape == (1, 3, 5)


def test_neighbour_flow_knows_its_directions() -> None:
    forward, backward = torch.ones(1, 2, 1, 1), -torch.ones(1, 2, 1, 1)
    flows = NeighbourFlow(forward, backward)
    assert flows.towards(1) == (forward, backward)
    assert flows.towards(-1) == (backward, forward)


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize(("source", "target"), WAYS)
def test_composed_flow_of_an_analytic_motion_is_analytic(name: str, build: Build, source: int, target: int) -> None:
    pose = MOTIONS[name]
    composed = build(neighbours(pose, 8), source, target, HEIGHT, WIDTH)
    difference = (composed.flow - analytic_flow(pose, source, target))[0].norm(dim=0)
    # Bilinear samples of these flows are exact, but for those that touch what has left the frame.
    for margin, tolerance in ((4.0, 1e-3), (0.5, 0.05)):
        known = inside_all_the_way(pose, source, target, margin)
        assert known.float().mean() > 0.3
        assert difference[known].max() < tolerance


def test_interpolation_error_of_a_curved_flow_stays_small() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    wave = torch.stack((torch.sin(y / 6), torch.sin(x / 6)))[None]
    composed = identity_flow(torch.zeros(40, 56))
    for _ in range(5):
        composed = prepend_flow(composed, wave, -wave, beta=1e9)
    points = torch.stack((x, y)).double()
    for _ in range(5):
        points = points + torch.stack((torch.sin(points[1] / 6), torch.sin(points[0] / 6)))
    difference = (composed.flow[0] - (points - torch.stack((x, y)))).norm(dim=0)
    assert difference[8:-8, 8:-8].max() < 0.05
    assert difference[8:-8, 8:-8].max() > 0  # the comparison is independent


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize(("source", "target"), WAYS)
def test_consistent_flow_has_no_error_inside_the_frame(name: str, build: Build, source: int, target: int) -> None:
    pose = MOTIONS[name]
    composed = build(neighbours(pose, 8), source, target, HEIGHT, WIDTH)
    safe = inside_all_the_way(pose, source, target, margin=4.0)
    assert safe.float().mean() > 0.1
    assert not composed.error[0][safe].any()
    assert ends_inside(composed)[safe].all()


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize(("source", "target"), WAYS)
def test_points_that_clearly_left_the_frame_are_in_error(name: str, build: Build, source: int, target: int) -> None:
    pose = MOTIONS[name]
    composed = build(neighbours(pose, 8), source, target, HEIGHT, WIDTH)
    gone = ~inside_all_the_way(pose, source, target, margin=-4.0)
    assert composed.error[0][gone].all()


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
def test_what_is_invalid_is_in_error(name: str, build: Build) -> None:
    composed = build(neighbours(MOTIONS[name], 8), 7, 0, HEIGHT, WIDTH)
    assert composed.error[0][~ends_inside(composed)].all()


@pytest.mark.parametrize("speed", [0.3, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
def test_the_part_of_a_sliding_picture_that_ends_inside(speed: float, build: Build) -> None:
    """After 10 steps of ``speed`` pixels, columns are lost on one side: as many as the picture has moved."""
    width, steps = 60, 10
    composed = build(sliding(speed, steps + 1, 4, width), 0, steps, 4, width)
    lost = round(speed * steps)
    expected = torch.arange(width) < width - lost
    assert torch.equal(ends_inside(composed), expected.expand(4, width))


@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
def test_a_point_that_left_the_frame_stays_in_error_when_the_motion_returns(build: Build) -> None:
    out = NeighbourFlow(constant(3, 0, 4, 12), constant(-3, 0, 4, 12))
    back = NeighbourFlow(out.flow_bw, out.flow_fw)
    still = NeighbourFlow(constant(0, 0, 4, 12), constant(0, 0, 4, 12))
    composed = build([out, back, still, still], 0, 4, 4, 12)
    torch.testing.assert_close(composed.flow[..., :9], torch.zeros(1, 2, 4, 9))
    expected = (torch.arange(12) < 9).repeat(4, 1)
    assert torch.equal(composed.error[0], ~expected)


@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("broken", [0, 1, 2, 3])
@pytest.mark.parametrize("direction", ["flow_fw", "flow_bw"])
def test_an_error_is_carried_along_the_chain_to_the_points_that_pass_it(
    build: Build, broken: int, direction: str
) -> None:
    """The picture slides by 2 px; the flow of one pair is broken on columns 20 … 25 of the frame where it starts."""
    height, width, count = 8, 60, 5
    flows = [NeighbourFlow(f.flow_fw.clone(), f.flow_bw.clone()) for f in sliding(2.0, count, height, width)]
    getattr(flows[broken], direction)[:, 1, :, 20:26] += 2.5
    first = broken if direction == "flow_fw" else broken + 1  # the frame whose columns 20 … 25 are broken
    for source, target in ((0, 4), (4, 0)):
        composed = build(flows, source, target, height, width)
        middle = 20 + 2 * (source - first)  # where these columns are in the source frame
        columns = composed.error[0, 3:5].any(0)
        assert columns[middle : middle + 6].all()
        away = torch.ones(width, dtype=torch.bool)
        away[middle - 2 : middle + 8] = False
        away[:10], away[-10:] = False, False
        assert not columns[away].any()


def test_looser_tolerance_lets_a_broken_flow_pass() -> None:
    flow = constant(1.0, 0, 8, 20)
    for extend in (prepend_flow, append_flow):
        start = identity_flow(torch.zeros(8, 20))
        assert extend(start, flow, torch.zeros_like(flow), 0.01, 0.5).error[0, :, :-1].all()
        assert not extend(start, flow, torch.zeros_like(flow), 0.01, 1.0).error[0, :, :-1].any()


@pytest.mark.parametrize("build", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 2])
def test_flow_that_is_not_finite_is_in_error_and_out_of_frame(build: Build, value: float, step: int) -> None:
    flows = [NeighbourFlow(f.flow_fw.clone(), f.flow_bw.clone()) for f in sliding(0.0, 4, 9, 9)]
    flows[step].flow_fw[..., 4, 4] = value
    composed = build(flows, 0, 3, 9, 9)
    assert composed.error[0, 4, 4]
    assert not ends_inside(composed)[4, 4]
    assert not composed.error[0, :3].any()


@pytest.mark.parametrize("name", MOTIONS)
def test_both_ends_give_the_same_flow(name: str) -> None:
    pose = MOTIONS[name]
    near, far = (build(neighbours(pose, 8), 6, 1, HEIGHT, WIDTH) for build in (composed_near, composed_far))
    known = inside_all_the_way(pose, 6, 1, margin=4.0)
    torch.testing.assert_close(near.flow[0][:, known], far.flow[0][:, known], atol=1e-3, rtol=0)
