"""Cuts: found by colour and structure, and nothing is warped across them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.cuts import LOST, is_cut, is_lost
from wrp.propagation.methods import make_methods
from wrp.propagation.session import Networks, PropagationSession
from wrp.structures import ClipBatch

SIZE = (96, 128)


def scene(seed: int, color: tuple[int, int, int], shift: int = 0) -> Tensor:
    """Make a textured frame (3, H, W) uint8 of a colour, moved to the right."""
    waves = np.random.default_rng(seed).uniform(0.05, 0.8, (12, 3)) * [1, 1, 8]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    texture = sum(np.sin(a * y + b * (x - shift) + c) for a, b, c in waves)
    return torch.from_numpy(np.clip(np.array(color)[:, None, None] + 10 * texture, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Pair:
    """Two frames, and whether there is a cut between them."""

    first: Tensor
    second: Tensor
    cut: bool


STREET, ROOM = (90, 110, 90), (170, 90, 40)
PAIRS = {
    "moved": Pair(scene(0, STREET), scene(0, STREET, 3), False),
    "frozen": Pair(scene(0, STREET), scene(0, STREET), False),
    "brighter": Pair(scene(0, STREET), scene(0, (140, 160, 140), 1), False),
    "same colours": Pair(scene(0, STREET), scene(1, STREET), False),
    "another scene": Pair(scene(0, STREET), scene(1, ROOM), True),
    "black": Pair(scene(0, STREET), torch.zeros(3, *SIZE, dtype=torch.uint8), True),
    "both black": Pair(*[torch.zeros(3, *SIZE, dtype=torch.uint8)] * 2, False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_cut_changes_colours_and_structure(name: str) -> None:
    pair = PAIRS[name]
    for first, second in ((pair.first, pair.second), (pair.second, pair.first)):
        flow = NeighbourFlow(DIS()(first[None], second[None]), DIS()(second[None], first[None]))
        assert is_cut(first[None], second[None], flow).tolist() == [pair.cut]


def test_pairs_of_a_batch_are_judged_one_by_one() -> None:
    pairs = [PAIRS["moved"], PAIRS["another scene"]]
    first, second = torch.stack([pair.first for pair in pairs]), torch.stack([pair.second for pair in pairs])
    flow = NeighbourFlow(DIS()(first, second), DIS()(second, first))
    assert is_cut(first, second, flow).tolist() == [False, True]


def clip(frames: list[Tensor], labels: dict[int, Tensor]) -> ClipBatch:
    return ClipBatch("clip", [str(i) for i in range(len(frames))], 0, frames, labels, (0, len(frames)))


FRAMES = [*(scene(0, STREET, i) for i in range(4)), *(scene(1, ROOM, i) for i in range(4))]


SAME_COLOURS = [*(scene(0, STREET, i) for i in range(4)), *(scene(1, STREET, i) for i in range(4))]


@pytest.mark.parametrize("ends", [(0, 8), (3, 8), (0, 5)], ids=["whole", "from the cut on", "up to the cut"])
def test_a_cut_between_scenes_of_the_same_colours_is_a_jump(ends: tuple[int, int]) -> None:
    first, stop = ends
    labels = {first: torch.zeros(SIZE, dtype=torch.uint8)}
    stems = [str(i) for i in range(first, stop)]
    batch = ClipBatch("clip", stems, first, SAME_COLOURS[first:stop], labels, ends)
    session = PropagationSession(batch, make_methods(["motion"]), Networks(2, FlowCache(DIS())))
    assert all((prediction.labels == 255).all() for prediction in session if prediction.index > 3)
    assert session.cuts == (3,)


def test_whether_there_is_a_cut_follows_from_the_frames_at_hand_alone() -> None:
    cache, whole = FlowCache(DIS()), clip(SAME_COLOURS, {})
    alone = ClipBatch("clip", ["3", "4"], 3, SAME_COLOURS[3:5], {}, (3, 5))
    for _ in range(2):
        assert is_lost(cache.between(whole, [3])[0].flow_fw).all()
        assert not is_lost(cache.between(alone, [3])[0].flow_fw).any()  # nothing tells it from fast motion
    assert (cache.hits, cache.misses) == (3, 1)


def test_a_flash_and_motion_that_is_always_fast_are_no_jumps() -> None:
    bright = scene(0, (140, 160, 140), 3)
    flash = [*(scene(0, STREET, i) for i in range(3)), bright, scene(0, STREET, 4)]
    fast = [scene(i, STREET) for i in range(5)]  # any frame is new
    for frames in (flash, fast):
        flows = FlowCache(DIS()).between(clip(frames, {}), range(4))
        assert not any(is_lost(flow.flow_fw).any() for flow in flows)


@pytest.mark.parametrize("method", ["motion", "vote"])
def test_no_label_crosses_a_cut(method: str) -> None:
    labels = {0: torch.zeros(SIZE, dtype=torch.uint8)}
    session = PropagationSession(clip(FRAMES, labels), make_methods([method]), Networks(2, FlowCache(DIS())))
    made = [prediction.labels for prediction in session]
    assert session.cuts == (3,)
    assert all((frame == 0).float().mean() > 0.7 for frame in made[1:4])
    assert all((frame == 255).all() for frame in made[4:])


def test_each_scene_has_the_labels_of_its_own_keyframe() -> None:
    labels = {0: torch.zeros(SIZE, dtype=torch.uint8), 7: torch.ones(SIZE, dtype=torch.uint8)}
    session = PropagationSession(clip(FRAMES, labels), make_methods(["motion"]), Networks(2, FlowCache(DIS())))
    made = [prediction.labels for prediction in session]
    assert all(set(frame.unique().tolist()) <= {0, 255} for frame in made[:4])
    assert all(set(frame.unique().tolist()) <= {1, 255} for frame in made[4:])


def test_flow_across_a_cut_is_lost_and_stays_so() -> None:
    cache = FlowCache(DIS())
    batch = clip(FRAMES, {})
    for _ in range(2):  # estimated, then found
        [flow] = cache.between(batch, [3])
        assert is_lost(flow.flow_fw).all()
        assert is_lost(flow.flow_bw).all()
    start = torch.full((1, 2, *SIZE), LOST)
    assert torch.equal(cache.direct(batch, 5, 0, start, "prepend"), start)
