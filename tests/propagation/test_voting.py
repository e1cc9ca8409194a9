"""SegProp's vote along an interval: its sources, and what further rounds make of them."""

from __future__ import annotations

import pytest
import torch

from tests.propagation.small import INTERVALS, SIZE, stretch
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.fusion import weighted_vote
from wrp.geometry.vote import push_labels
from wrp.geometry.warp import compose, coordinates
from wrp.propagation.voting import soft_votes, vote_interval, vote_sources
from wrp.structures import IGNORE_INDEX, ClipBatch


@pytest.mark.parametrize("batch", INTERVALS.values(), ids=INTERVALS)
def test_sources_of_the_vote_are_those_of_chains_composed_anew(batch: ClipBatch) -> None:
    cache = FlowCache(DIS())
    for index, (labels, weights) in vote_sources(batch, cache):
        assert index not in batch.labels
        expected = []
        for keyframe in sorted(batch.labels):
            step = 1 if index > keyframe else -1
            there = back = torch.zeros(1, 2, *SIZE)
            for i in range(keyframe + step, index + step, step):
                onward, homeward = cache.between(batch, [min(i, i - step)])[0].towards(step)
                there, back = compose(there, onward), compose(homeward, back)
            expected.append(push_labels(batch.labels[keyframe], there[0]))
            coords, valid = coordinates(back)
            rows, columns = (coords[0, 1] + 0.5).floor().long(), (coords[0, 0] + 0.5).floor().long()
            expected.append(batch.labels[keyframe][rows, columns].masked_fill(~valid[0], IGNORE_INDEX))
        assert torch.equal(labels, torch.stack(expected))
        assert weights.sum() == pytest.approx(1)
        assert len(weights) == len(labels)


def test_the_nearer_keyframe_has_more_votes() -> None:
    found = vote_sources(INTERVALS["between two keyframes"], FlowCache(DIS()))
    shares = [weights[0] / weights[2] for _, (_, weights) in found]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 1 > shares[-1]


def test_soft_votes_are_shares_of_the_sources_that_have_a_label() -> None:
    labels = torch.tensor([[[0, 1, 255]], [[0, 0, 255]]], dtype=torch.uint8)
    votes = soft_votes(labels, torch.tensor([0.6, 0.2]), 2)
    torch.testing.assert_close(votes[:, 0], torch.tensor([[1.0, 0.25, 0.0], [0.0, 0.75, 0.0]]))


@pytest.mark.parametrize("batch", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_votes_come_in_order_and_anchors_stay(batch: ClipBatch, rounds: int) -> None:
    votes = list(vote_interval(batch, FlowCache(DIS()), 5, rounds))
    assert [index for index, _ in votes] == list(range(*batch.queries))
    for index, soft in votes:
        assert soft.shape == (5, *SIZE)
        total = soft.sum(0)
        assert ((total < 1e-3) | ((total - 1).abs() < 0.02)).all()
        if index in batch.labels:
            known = batch.labels[index] != IGNORE_INDEX
            assert torch.equal(total > 0.5, known)
            assert torch.equal(soft.argmax(0)[known], batch.labels[index][known].long())


def test_a_round_is_the_mean_of_the_frames_around_brought_along_the_flow() -> None:
    # Nothing moves, so that bringing votes along the flow changes nothing; labels differ between the keyframes.
    batch = stretch((0, 12), 0, 12, (0, 12))
    batch.frames = [batch.frames[0]] * 13
    batch.labels = {0: torch.zeros(SIZE, dtype=torch.uint8), 12: torch.ones(SIZE, dtype=torch.uint8)}
    first = dict(vote_interval(batch, FlowCache(DIS()), 2, 0)) | {
        12: torch.stack([torch.zeros(SIZE), torch.ones(SIZE)])
    }
    second = dict(vote_interval(batch, FlowCache(DIS()), 2, 1))
    for index in range(1, 12):
        around = [min(max(index + offset, 0), 12) for offset in (-10, -5, 0, 5, 10)]
        expected = torch.stack([first[i] for i in around]).mean(0)
        middle = (slice(None), slice(12, -12), slice(12, -12))
        torch.testing.assert_close(second[index][middle], expected[middle], atol=0.01, rtol=0)


def test_anchors_may_be_chosen() -> None:
    batch = INTERVALS["between two keyframes"]
    sources = {i: said[0] for i, said in vote_sources(batch, FlowCache(DIS()))}
    for keyframes, chosen in (("previous", slice(0, 2)), ("nearest", None)):
        for index, soft in vote_interval(batch, FlowCache(DIS()), 5, 0, keyframes):
            if index in batch.labels:
                continue
            mine = chosen or (slice(0, 2) if index - 4 <= 10 - index else slice(2, 4))
            expected = soft_votes(sources[index][mine], torch.ones(2), 5)
            known = expected.sum(0) > 0
            torch.testing.assert_close(soft[:, known], expected[:, known])
            assert (soft.sum(0) > 0)[~known].any() == (keyframes == "nearest")


@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize(
    "queries", [(0, 12), (0, 13)], ids=["the later keyframe behind", "the later keyframe among them"]
)
def test_the_previous_keyframe_alone_is_the_previous_keyframe_alone(rounds: int, queries: tuple[int, int]) -> None:
    batch = stretch((0, 12), 0, 12, queries)
    batch.frames = [batch.frames[0]] * 13
    batch.labels = {0: torch.zeros(SIZE, dtype=torch.uint8), 12: torch.ones(SIZE, dtype=torch.uint8)}
    for index, soft in vote_interval(batch, FlowCache(DIS()), 2, rounds, "previous"):
        assert soft[0 if index == 12 else 1].max() < 0.01


@pytest.mark.parametrize("keyframes", ["both", "previous", "nearest"])
def test_the_elected_label_has_the_greatest_share_of_the_soft_votes(keyframes: str) -> None:
    batch = INTERVALS["between two keyframes"]
    soft = dict(vote_interval(batch, FlowCache(DIS()), 5, 0, keyframes))
    for index, sources in vote_sources(batch, FlowCache(DIS()), keyframes):
        label, share = weighted_vote(*sources)
        torch.testing.assert_close(share, soft[index].amax(0))
        assert torch.equal(label == IGNORE_INDEX, share == 0)
        known = label != IGNORE_INDEX
        votes = soft[index].gather(0, label.long().clamp(max=4)[None])[0]
        torch.testing.assert_close(votes[known], share[known])


@pytest.mark.parametrize("rounds", [0, 1])
def test_votes_of_some_frames_are_those_of_all(rounds: int) -> None:
    batch = INTERVALS["last, with its end"]
    whole = dict(vote_interval(batch, FlowCache(DIS()), 5, rounds))
    some = dict(vote_interval(batch, FlowCache(DIS()), 5, rounds, wanted={5, 8, 10}))
    assert list(some) == [5, 8, 10]
    assert all(torch.equal(soft, whole[index]) for index, soft in some.items())
    sources = dict(vote_sources(batch, FlowCache(DIS()), wanted={5, 8, 10}))
    assert list(sources) == [5, 8]
