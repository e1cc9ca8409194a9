"""Walks over intervals: streaming gives what composing every chain anew gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.propagation.small import INTERVALS, SIZE, stretch
from wrp.data.synthetic.scene import render_clip
from wrp.flow.cache import FlowCache
from wrp.flow.direct import direct_flow, without_drift
from wrp.flow.dis import DIS
from wrp.flow.hashing import content_hash
from wrp.flow.stack import DiskStack
from wrp.geometry.composed import identity_flow, prepend_flow
from wrp.geometry.cycle import image_of, warp_keyframe
from wrp.geometry.fusion import WarpedLabels, gather, join_sources
from wrp.propagation import warping as walk
from wrp.propagation.warping import IntervalWarper, Sides
from wrp.refinement.cycles import make_cycles
from wrp.structures import ClipBatch, FramePair


def anew(batch: ClipBatch, cache: FlowCache, keyframe: int, index: int) -> WarpedLabels:
    """Evidence of one keyframe about one frame, its chain composed for this frame alone."""
    step = 1 if index > keyframe else -1
    composed = identity_flow(batch.labels[keyframe])
    image, label = image_of(batch.frame(keyframe)), batch.labels[keyframe]
    for i in range(keyframe + step, index + step, step):
        onward, homeward = cache.between(batch, [min(i, i - step)])[0].towards(step)
        ways = [prepend_flow(composed, homeward, onward)]
        if cache.any_frames:
            ways.append(direct_flow(ways[0], cache, batch, i, keyframe, "prepend"))
        said = join_sources([warp_keyframe(label, image, batch.frame(i), way, abs(i - keyframe)) for way in ways])
        composed = without_drift(*ways, said.photometric) if cache.any_frames else ways[0]
    return said


def warp_all(batch: ClipBatch, cache: FlowCache, within: range | None = None) -> dict[int, WarpedLabels]:
    """The labels of the keyframes, warped into each frame that is no keyframe."""
    with IntervalWarper(batch, cache, within) as made:
        return {i: made.at(i) for i in within or range(*batch.queries) if i not in batch.labels}


@pytest.mark.parametrize("batch", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize("memory", [0, 2**25], ids=["on disk", "in memory"])
@pytest.mark.parametrize("direct", [False, True], ids=["composed", "and direct"])
def test_evidence_is_that_of_chains_composed_anew(
    batch: ClipBatch, memory: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "STACK_BYTES", memory)
    cache = FlowCache(DIS())
    cache.any_frames = direct
    for index, warped in warp_all(batch, cache).items():
        expected = gather([anew(batch, cache, keyframe, index) for keyframe in sorted(batch.labels)])
        assert len(warped.labels) == len(batch.labels) * (1 + direct)
        for name, found in vars(warped).items():
            assert torch.equal(found, getattr(expected, name)), name


@pytest.mark.parametrize("within", [range(5, 8), range(7, 10), range(7, 8)])
def test_a_part_of_an_interval_costs_less_and_is_the_same(within: range) -> None:
    batch, cache, whole = INTERVALS["between two keyframes"], FlowCache(DIS()), FlowCache(DIS())
    expected, asked = warp_all(batch, whole), []
    cache.register_forward_hook(lambda *_: asked.append(1))
    for index, warped in warp_all(batch, cache, within).items():
        for name, found in vars(warped).items():
            assert torch.equal(found, getattr(expected[index], name)), name
    assert len(asked) == (within.stop - 5) + (10 - within.start)


class Drifting(DIS):
    """Neighbouring flows that are half a pixel too long; what starts from a guess is right."""

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        return super().estimate(frames_s, frames_t, pairs) + 0.5

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        return DIS._estimate(self, frames_s, frames_t, list(start.permute(0, 2, 3, 1).contiguous().numpy()))


def test_a_direct_flow_ends_the_drift() -> None:
    batch, cache = stretch((0,), 0, 10, (0, 11)), FlowCache(Drifting(scale=1))
    label = batch.labels[0]
    expected = ((torch.arange(SIZE[1]).expand(SIZE) - 15) // 9 % 5).to(torch.uint8)
    right = {}
    for direct in (False, True):
        cache.any_frames = direct
        said = warp_all(batch, cache)[10]
        inner = (slice(5, -5), slice(25, -5))
        right[direct] = (said.labels[-1] == expected)[inner].double().mean()
    assert label.unique().numel() > 4
    assert right[True] > 0.9 > right[False]


def test_each_neighbouring_flow_is_estimated_once() -> None:
    cache = FlowCache(DIS())
    warp_all(INTERVALS["between two keyframes"], cache)
    assert cache.misses == 6
    assert cache.hits == 4


class Noted(DIS):
    """Notes between which frames direct flow was estimated."""

    def __init__(self) -> None:
        super().__init__(scale=1)
        self.direct_pairs: list[tuple[bytes, bytes]] = []

    def estimate_from(self, frames_s: Tensor, frames_t: Tensor, start: Tensor) -> Tensor:
        self.direct_pairs.append((content_hash(frames_s[0]), content_hash(frames_t[0])))
        return super().estimate_from(frames_s, frames_t, start)


def test_a_direct_flow_of_a_cycle_serves_propagation_and_changes_nothing(tmp_path: Path) -> None:
    clip = render_clip(8, 96, 128)
    frames = [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in clip.frames]
    labels = {i: torch.from_numpy(clip.labels[i]).contiguous() for i in (0, 7)}
    batch = ClipBatch("scene", [str(i) for i in range(8)], 0, frames, labels, (0, 8))
    window = replace(batch, queries=(0, 1))

    def label(folder: str | None) -> tuple[Noted, list[WarpedLabels]]:
        estimator = Noted()
        cycles, pairs = make_cycles(window, FlowCache(estimator, folder), crossed=True)
        # Another object over the same folder, as in another stage of a run.
        return estimator, [*cycles.values(), *pairs.values(), *warp_all(batch, FlowCache(estimator, folder)).values()]

    kept, with_folder = label(str(tmp_path))
    anew, without = label(None)
    assert set(Counter(kept.direct_pairs).values()) == {1}
    assert len(kept.direct_pairs) == 2 * 7 + 6  # out and back along the window; from the other keyframe
    assert len(anew.direct_pairs) == 2 * 7 + 2 * 6
    for one, other in zip(with_folder, without, strict=True):
        for name, found in vars(one).items():
            assert torch.equal(found, getattr(other, name)), name
    again, from_folder = label(str(tmp_path))
    assert again.estimates == 0
    assert all(torch.equal(a.photometric, b.photometric) for a, b in zip(from_folder, without, strict=True))


def test_sides_leave_anchors_out() -> None:
    sides = [Sides.of(batch) for batch in INTERVALS.values()]
    assert [(s.earlier, s.later) for s in sides] == [(4, 10), (4, 10), (None, 4), (4, None), (4, None)]
    assert [list(s.onward) for s in sides] == [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [], [5, 6, 7, 8, 9], []]
    assert [list(s.homeward) for s in sides] == [[9, 8, 7, 6, 5], [9, 8, 7, 6, 5], [3, 2, 1, 0], [], []]


@pytest.mark.parametrize("memory", [0, 100, 10**6])
def test_a_spool_returns_the_last_first(memory: int) -> None:
    spool = DiskStack(memory)
    items = [
        [torch.full((4, 5), i, dtype=torch.uint8), torch.rand(i + 1) > 0.5, torch.rand(2).half()] for i in range(6)
    ]
    for item in items:
        spool.push(item)
    for item in reversed(items[3:]):
        assert all(torch.equal(a, b) for a, b in zip(spool.pop(), item, strict=True))
    spool.push(items[5])
    for item in (items[5], *reversed(items[:3])):
        assert all(torch.equal(a, b) for a, b in zip(spool.pop(), item, strict=True))
    with pytest.raises(IndexError):
        spool.pop()
