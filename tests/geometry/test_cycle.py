import torch
from torch import Tensor

from tests.motions import HEIGHT, MOTIONS, WIDTH, analytic_flow, composed_far, composed_near, neighbours
from wrp.geometry.composed import ComposedFlow
from wrp.geometry.cycle import image_of, warp_cycle, warp_keyframe

IGNORE = 255


def constant_chain(x: float, height: int = 4, width: int = 8) -> ComposedFlow:
    flow = torch.zeros(1, 2, height, width)
    flow[:, 0] = x
    position = torch.arange(width) + x
    valid = ((position >= -0.5) & (position < width - 0.5)).repeat(1, height, 1)
    return ComposedFlow(flow, ~valid)


def row_label(height: int = 4, width: int = 8) -> Tensor:
    return torch.arange(width, dtype=torch.uint8).repeat(height, 1)


def grey(value: int, height: int = 4, width: int = 8) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def test_an_keyframe_says_its_label_along_the_composed_flow() -> None:
    said = warp_keyframe(row_label(), image_of(grey(128)), grey(128), constant_chain(2), distance=6)
    assert said.labels.dtype == torch.uint8
    assert said.labels[0, 0].tolist() == [2, 3, 4, 5, 6, 7, IGNORE, IGNORE]
    assert said.distance.tolist() == [6]
    assert not said.photometric[0, :, :3].any()


def test_an_keyframe_says_nothing_where_the_flow_leads_out_of_the_frame() -> None:
    composed = constant_chain(0)
    composed.flow[0, 1, :, 3] = 9.0
    said = warp_keyframe(row_label(), image_of(grey(0)), grey(0), composed, 1)
    assert said.labels[0, 0].tolist() == [0, 1, 2, IGNORE, 4, 5, 6, 7]


def test_photometric_error_compares_the_target_with_the_warped_keyframe() -> None:
    keyframe = grey(0)
    keyframe[:, :, 5:] = 255
    target = grey(0)
    target[:, :, 3:] = 255
    right = warp_keyframe(row_label(), image_of(keyframe), target, constant_chain(2), 1).photometric
    wrong = warp_keyframe(row_label(), image_of(keyframe), target, constant_chain(0), 1).photometric
    assert not right[0, :, :4].any()  # further right the keyframe is out of the frame
    assert wrong[0, :, 3].min() > 0.3


def test_the_error_mask_of_the_chain_is_passed_on() -> None:
    composed = constant_chain(1)
    composed.error[0, 2, 2] = True
    assert torch.equal(warp_keyframe(row_label(), image_of(grey(0)), grey(0), composed, 1).error, composed.error)


def test_a_cycle_that_returns_gives_the_label_back_where_the_point_stayed() -> None:
    said = warp_cycle(row_label(), image_of(grey(0)), grey(0), constant_chain(2), constant_chain(-2), 3)
    assert said.labels[0, 0].tolist() == [0, 1, 2, 3, 4, 5, IGNORE, IGNORE]
    assert said.distance.tolist() == [3]


def test_a_cycle_is_displaced_by_what_the_two_flows_differ() -> None:
    said = warp_cycle(row_label(), image_of(grey(0)), grey(0), constant_chain(2), constant_chain(-1), 3)
    assert said.labels[0, 0].tolist() == [1, 2, 3, 4, 5, 6, IGNORE, IGNORE]


def test_the_way_back_starts_where_the_way_out_ended() -> None:
    back = constant_chain(0)
    back.flow[0, 0, :, 3] = 4.0
    said = warp_cycle(row_label(), image_of(grey(0)), grey(0), constant_chain(2), back, 1)
    assert said.labels[0, 0].tolist() == [2, 7, 4, 5, 6, 7, IGNORE, IGNORE]


def test_a_point_that_leaves_the_frame_on_the_way_back_has_no_label() -> None:
    back = constant_chain(-1)
    back.flow[0, 1, :, 4] = -9.0
    said = warp_cycle(row_label(), image_of(grey(0)), grey(0), constant_chain(1), back, 1)
    assert said.labels[0, 0].tolist() == [0, 1, 2, IGNORE, 4, 5, 6, IGNORE]


def test_the_tests_of_a_cycle_look_at_the_way_out_alone() -> None:
    out, back = constant_chain(1), constant_chain(-1)
    back.error[:] = True
    said = warp_cycle(row_label(), image_of(grey(51)), grey(51), out, back, 1)
    assert torch.equal(said.error, out.error)
    assert not said.photometric[0, :, :3].any()


def test_the_cycle_of_an_analytic_motion_is_the_identity() -> None:
    label = torch.randint(0, 11, (HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frame = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    for pose in MOTIONS.values():
        flows = neighbours(pose, 6)
        for start, far in ((0, 5), (5, 0), (2, 4)):
            out, back = (
                composed_far(flows, start, far, HEIGHT, WIDTH),
                composed_near(flows, far, start, HEIGHT, WIDTH),
            )
            labels = warp_cycle(label, image_of(frame), frame, out, back, 5).labels[0]
            known = labels != IGNORE
            assert known.float().mean() > 0.4
            assert (labels == label)[known].float().mean() > 0.99
            moved = warp_keyframe(label, image_of(frame), frame, out, 5).labels[0]
            x = (torch.arange(WIDTH) + analytic_flow(pose, start, far)[0, 0]).round().long().clamp(0, WIDTH - 1)
            y = (torch.arange(HEIGHT)[:, None] + analytic_flow(pose, start, far)[0, 1]).round().long()
            expected = label[y.clamp(0, HEIGHT - 1), x]
            assert (moved == expected)[moved != IGNORE].float().mean() > 0.99
