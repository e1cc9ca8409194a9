import pytest
import torch

from wrp.flow import resizing
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.flow.resizing import KEPT, Resizer, resize_flow, resize_frames
from wrp.propagation.module import PropagationModule
from wrp.structures import ClipBatch

SIZE = (40, 60)


def frames(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 20, 30), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What was resized, and not found among what is kept."""
    made = []

    def counted(given: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        made.extend(given)
        return resize_frames(given, size)

    monkeypatch.setattr(resizing, "resize_frames", counted)
    return made


def test_what_is_kept_is_what_would_be_made(resized: list[torch.Tensor]) -> None:
    resizer, given = Resizer(), frames(3)
    for order in ([0, 1, 2], [2, 0], [1, 1]):
        assert torch.equal(resizer(given[order], SIZE), resize_frames(given[order], SIZE))
    assert len(resized) == 3


def test_a_frame_that_was_changed_in_place_is_another(resized: list[torch.Tensor]) -> None:
    resizer, given = Resizer(), frames(1)
    resizer(given, SIZE)
    given += 1
    assert torch.equal(resizer(given, SIZE), resize_frames(given, SIZE))
    assert len(resized) == 2


def test_sizes_are_kept_apart() -> None:
    resizer, given = Resizer(), frames(1)
    assert [tuple(resizer(given, size).shape[2:]) for size in (SIZE, (10, 15), SIZE, (20, 30))] == [
        SIZE,
        (10, 15),
        SIZE,
        (20, 30),
    ]


def test_the_least_recently_used_goes_first(resized: list[torch.Tensor]) -> None:
    resizer, given = Resizer(), frames(KEPT + 1)
    resizer(given[:KEPT], SIZE)
    resizer(given[[0, KEPT, 0]], SIZE)
    assert len(resized) == KEPT + 1
    resizer(given[[1]], SIZE)
    assert len(resized) == KEPT + 2


def test_propagation_magnifies_each_frame_once_for_each_keyframe(resized: list[torch.Tensor]) -> None:
    count = 13
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (count, 3, 64, 96), generator=generator, dtype=torch.uint8)
    label = torch.zeros(64, 96, dtype=torch.uint8)
    names = [f"{number:02d}" for number in range(count)]
    batch = ClipBatch("clip", names, 0, list(clip), {0: label, count - 1: label}, (0, count))
    list(PropagationModule(2, flow=FlowCache(DIS())).session(batch))
    # Which thread is ahead decides what is dropped, so some are made once more: 23 to 26 in 120 runs. Without keeping
    # it would be each frame of each pair, 2 × 2 × 12 for neighbours alone.
    assert count <= len(resized) < 3 * count


def test_flow_is_scaled_with_its_frames() -> None:
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    assert torch.equal(resize_flow(flow, (40, 90)), torch.tensor([9.0, -4.0]).view(1, 2, 1, 1).expand(1, 2, 40, 90))
