import threading

import pytest
import torch

from wrp.flow.dis import DIS, PRESETS
from wrp.testing import FlowEstimatorTester, texture


class TestDIS(FlowEstimatorTester):
    def make(self) -> DIS:
        return DIS()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_estimates(preset: str) -> None:
    flow = DIS(preset)(texture(96, 128)[None], texture(96, 128, 2)[None])
    assert abs(flow[0, 0, 16:-16, 16:-16].median() - 2) < 0.5


def test_small_frames_are_magnified_without_a_cliff() -> None:
    sizes = [(240, 320), (360, 480), (480, 640), (512, 512), (480, 854), (720, 1280), (1024, 2048)]
    scales = [DIS().magnification(*size) for size in sizes]
    assert scales[:2] == [2.0, 2.0]
    assert scales[-2:] == [1.0, 1.0]
    assert scales[2] < scales[3]
    worked = [height * width * scale**2 for (height, width), scale in zip(sizes, scales, strict=True)]
    assert worked[1:5] == pytest.approx([worked[1]] * 4)  # so many pixels, whatever the frame
    assert DIS(scale=1.5).magnification(240, 320) == 1.5


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown DIS preset 'best', expected one of ultrafast, fast, medium"):
        DIS("best")


@pytest.mark.parametrize("size", [(8, 8), (31, 100), (33, 47), (100, 9)])
def test_padding_of_small_frames_is_taken_off_again(size: tuple[int, int]) -> None:
    assert DIS()(texture(*size)[None], texture(*size)[None]).shape == (1, 2, *size)


def test_a_frame_that_does_not_move_has_no_flow() -> None:
    assert DIS()(texture(64, 64)[None], texture(64, 64)[None]).abs().max() < 1e-3


def test_two_threads_can_share_an_estimator() -> None:
    estimator, first = DIS(), texture(96, 96)[None]
    moved = [texture(96, 96, x)[None] for x in (1, 3)]
    alone = [estimator(first, second) for second in moved]
    found: list[list[torch.Tensor]] = [[], []]

    def work(i: int) -> None:
        found[i].extend(estimator(first, moved[i]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(found[i]) == 5
        assert all(torch.equal(flow, alone[i]) for flow in found[i])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(24, 40), (36, 80), (48, 32), (61, 37), (80, 88)])
def test_flow_of_a_small_frame_does_not_depend_on_the_pair_before(preset: str, size: tuple[int, int]) -> None:
    estimator, first, second = DIS(preset, scale=1), texture(*size)[None], texture(*size, 3)[None]
    expected = estimator(first, second)
    estimator(texture(*size)[None].flip(-1), texture(*size, -2)[None])
    assert torch.equal(estimator(first, second), expected)


def test_flow_does_not_depend_on_what_was_estimated_before() -> None:
    first, second = texture(64, 96)[None], texture(64, 96, 3)[None]
    expected = DIS()(first, second)
    for size in ((57, 83), (64, 96), (200, 120)):
        for preset in PRESETS:
            DIS(preset)(texture(*size)[None], texture(*size, 5)[None])
        assert torch.equal(DIS()(first, second), expected)
        assert torch.equal(DIS()(first, second), expected)
