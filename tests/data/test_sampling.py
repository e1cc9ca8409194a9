from collections import Counter

import pytest

from tests.data.small import process
from wrp.data.sampling import ShardSampler, TrainSampler, distribute
from wrp.data.transforms import Draw


def train(items: int, length: int, world: int = 1, epoch: int = 0, seed: int = 0) -> list[list[Draw]]:
    ranks = []
    for rank in range(world):
        sampler = TrainSampler(range(items), length, seed)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        with process(rank, world):
            drawn = list(sampler)
            assert len(drawn) == len(sampler)
        ranks.append(drawn)
    return ranks


@pytest.mark.parametrize("items", [0, 1, 2, 5, 17])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shards_lose_and_double_nothing(items: int, world: int) -> None:
    sampler = ShardSampler(range(items))  # type: ignore[arg-type]
    shards = []
    for rank in range(world):
        with process(rank, world):
            shards.append(list(sampler))
            assert len(sampler) == len(shards[-1])
    assert sorted(index for shard in shards for index in shard) == list(range(items))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert all(shard == sorted(shard) for shard in shards)


@pytest.mark.parametrize(("items", "length"), [(7, 7), (7, 3), (7, 20), (1, 5), (4, 1)])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_process_draws_equally_often_and_items_about_equally(items: int, length: int, world: int) -> None:
    ranks = train(items, length, world)
    assert {len(rank) for rank in ranks} == {max(1, length // world)}
    counts = Counter(draw.index for rank in ranks for draw in rank)
    assert set(counts) <= set(range(items))
    assert max(counts.values()) - min(counts.get(i, 0) for i in range(items)) <= 1


def test_no_draw_of_a_run_occurs_twice() -> None:
    draws = [draw for epoch in range(4) for rank in train(5, 13, 2, epoch) for draw in rank]
    assert len(set(draws)) == len(draws)


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    orders = [tuple(d.index for d in train(20, 20, epoch=e, seed=s)[0]) for e, s in ((0, 0), (1, 0), (0, 5))]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_the_order_of_an_epoch_does_not_depend_on_the_number_of_processes() -> None:
    (alone,) = train(12, 12, 1, epoch=2)
    first, second = train(12, 12, 2, epoch=2)
    assert [draw for pair in zip(first, second, strict=True) for draw in pair] == alone


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_work_is_shared_out_evenly_and_whole(shares: int) -> None:
    costs = [25, 25, 3, 1, 1, 10, 25, 7, 2]
    found = distribute(costs, shares)
    assert sorted(item for share in found for item in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in found)
    loads = [sum(costs[item] for item in share) for share in found]
    assert max(loads) <= max(25, sum(costs) / shares + min(costs) + 5)
