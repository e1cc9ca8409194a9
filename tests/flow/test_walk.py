"""Walks over intervals: streaming gives what composing every chain anew gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.flow.base import texture
from wrp.flow import walk
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.flow.spool import Spool
from wrp.flow.walk import Sides, walk_interval
from wrp.ops.chain import extend_near, start_chain
from wrp.ops.cycle import anchor_evidence, image_of
from wrp.types import IGNORE_INDEX, ClipBatch

SIZE = (40, 56)


def stretch(anchors: Sequence[int], first: int, last: int, targets: tuple[int, int]) -> ClipBatch:
    """Frames first … last of a sliding texture, with labels that slide along."""
    frames = [texture(*SIZE, 1.5 * i, -0.5 * i) for i in range(first, last + 1)]
    x = torch.arange(SIZE[1]).expand(SIZE)
    labels = {a: ((x - 1.5 * a) // 9 % 5).to(torch.uint8) for a in anchors}
    for label in labels.values():
        label[:3] = IGNORE_INDEX
    return ClipBatch("clip", [str(i) for i in range(first, last + 1)], first, frames, labels, targets)


INTERVALS = {
    "between two anchors": stretch((4, 10), 4, 10, (4, 10)),
    "last, with its end": stretch((4, 10), 4, 10, (4, 11)),
    "before the first anchor": stretch((4,), 0, 4, (0, 4)),
    "behind the last anchor": stretch((4,), 4, 9, (4, 10)),
    "one frame": stretch((4,), 4, 4, (4, 5)),
}


def anew(batch: ClipBatch, cache: FlowCache, anchor: int, index: int) -> list[Tensor]:
    """Evidence of one anchor about one frame, its chain composed for this frame alone."""
    step = 1 if index > anchor else -1
    chain = start_chain(batch.labels[anchor])
    for i in range(anchor + step, index + step, step):
        onward, homeward = cache.between(batch, [min(i, i - step)])[0].towards(step)
        chain = extend_near(chain, homeward, onward)
    image, label = image_of(batch.frame(anchor)), batch.labels[anchor]
    return list(vars(anchor_evidence(label, image, batch.frame(index), chain, abs(index - anchor))).values())


@pytest.mark.parametrize("batch", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize("memory", [0, 2**25], ids=["on disk", "in memory"])
def test_evidence_is_that_of_chains_composed_anew(
    batch: ClipBatch, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "SPOOL_BYTES", memory)
    cache = FlowCache(DIS())
    results = list(walk_interval(batch, cache))
    assert [index for index, _ in results] == list(range(*batch.targets))
    for index, evidence in results:
        assert (evidence is None) == (index in batch.labels)
        if evidence is None:
            continue
        parts = [anew(batch, cache, anchor, index) for anchor in sorted(batch.labels)]
        for found, expected in zip(vars(evidence).values(), zip(*parts, strict=True), strict=True):
            assert torch.equal(found, torch.cat(expected))


def test_each_neighbouring_flow_is_estimated_once() -> None:
    cache = FlowCache(DIS())
    list(walk_interval(INTERVALS["between two anchors"], cache))
    assert cache.misses == 6
    assert cache.hits == 4


def test_sides_leave_anchors_out() -> None:
    sides = [Sides.of(batch) for batch in INTERVALS.values()]
    assert [(s.earlier, s.later) for s in sides] == [(4, 10), (4, 10), (None, 4), (4, None), (4, None)]
    assert [list(s.onward) for s in sides] == [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [], [5, 6, 7, 8, 9], []]
    assert [list(s.homeward) for s in sides] == [[9, 8, 7, 6, 5], [9, 8, 7, 6, 5], [3, 2, 1, 0], [], []]


@pytest.mark.parametrize("memory", [0, 100, 10**6])
def test_a_spool_returns_the_last_first(memory: int) -> None:
    spool = Spool(memory)
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
