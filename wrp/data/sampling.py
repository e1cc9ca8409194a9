"""Samplers that shard over processes and give each item its epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from wrp.data.transforms import Draw
from wrp.errors import DataError
from wrp.io.together import processes


class _Shared(DistributedSampler):
    """A sampler that reads the number of processes on use, as loaders may be made before processes are started.

    Lightning and Fabric leave subclasses of DistributedSampler alone and call their ``set_epoch``.
    """

    def __init__(self, dataset: Dataset[Any], seed: int = 0) -> None:
        # Not the base's __init__, which needs the number of processes.
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0


class TrainSampler(_Shared):
    """A new order in each epoch; every process gets the same number of items, each as a :class:`Draw`.

    Args:
        dataset: The data set to draw from.
        length: Items per epoch over all processes; where it exceeds the data set, items repeat.
        seed: Seed of the run.
        groups: Number of items and ratio of the draws of each group, for a data set made of several in a row; ratios
            add up to 1. None: one group of all items.
        later: Pairs (epoch, ratios) in the order of epochs: from this epoch on, the groups have these ratios.
        tiles: Where each class is, see :func:`~wrp.data.tiles.class_tiles`.
        uniform: Probability of a draw that shows a uniformly drawn class, in a crop near one of its tiles.
        repeat: How often each process draws an item in a row.

    Example:
        >>> sampler = TrainSampler(["a", "b", "c"], length=4, seed=0)
        >>> draws = list(sampler)
        >>> [draw.epoch for draw in draws], sorted({draw.index for draw in draws})
        ([0, 1, 2, 3], [0, 1, 2])
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        length: int,
        seed: int,
        groups: Sequence[tuple[int, float]] | None = None,
        later: Sequence[tuple[int, Sequence[float]]] = (),
        tiles: np.ndarray | None = None,
        uniform: float = 0.0,
        repeat: int = 1,
    ) -> None:
        super().__init__(dataset, seed)
        self.repeat = repeat
        self.length = length
        self.tiles = tiles
        self.uniform = uniform if tiles is not None else 0.0
        self.groups = groups or [(len(dataset), 1.0)]  # type: ignore[arg-type]
        self.later = later
        self.start = 0  # items of the epoch that this process skips, where a training resumes

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        count, rank = processes()
        wanted = len(self) * count
        row = self.repeat * count if self.repeat > 1 else 1
        order = self._order(-(-wanted // row), generator).repeat_interleave(row)[:wanted]
        rng = np.random.default_rng((self.seed, self.epoch))
        by_class = rng.random(wanted) < self.uniform
        choices = rng.random((wanted, 2))
        for position in range(rank + self.start * count, wanted, count):
            # The number of draws so far, so that an item repeated within an epoch is augmented anew.
            draw = Draw(self.epoch * wanted + position, int(order[position]))
            yield self._of_a_class(draw, *choices[position]) if by_class[position] else draw

    def _of_a_class(self, draw: Draw, which_class: float, which_tile: float) -> Draw:
        """Return a draw from the same group whose crop shows a class, by two random numbers in [0, 1)."""
        classes = self._tiles_of_group[self._group_of(draw.index)]
        if not classes:
            return draw
        tiles = classes[int(which_class * len(classes))]
        _, index, row, column = tiles[int(which_tile * len(tiles))].tolist()
        return Draw(draw.epoch, index, (row, column))

    @cached_property
    def _tiles_of_group(self) -> list[list[np.ndarray]]:
        """For each group, the tiles of each class that occurs in it."""
        assert self.tiles is not None
        group = np.array([self._group_of(int(index)) for index in self.tiles[:, 1]])
        return [
            [self.tiles[(group == g) & (self.tiles[:, 0] == c)] for c in np.unique(self.tiles[group == g, 0])]
            for g in range(len(self.groups))
        ]

    def _group_of(self, index: int) -> int:
        ends = np.cumsum([items for items, _ in self.groups])
        return int(np.searchsorted(ends, index, side="right"))

    def _order(self, wanted: int, generator: torch.Generator) -> Tensor:
        """Return the items in the order of one epoch; the items that a group draws repeat only once all were drawn."""
        ratios: Sequence[float] = [ratio for _, ratio in self.groups]
        for epoch, others in self.later:
            ratios = others if self.epoch >= epoch else ratios
        ends = [round(wanted * sum(ratios[: i + 1])) for i in range(len(ratios))]
        parts, first, start = [], 0, 0
        for (items, _), end in zip(self.groups, ends, strict=True):
            rounds = -(-(end - start) // items) if items else 0
            shuffled = [first + torch.randperm(items, generator=generator) for _ in range(rounds)]
            parts.append(torch.cat([*shuffled, torch.empty(0, dtype=torch.int64)])[: end - start])
            first, start = first + items, end
        order = torch.cat(parts)
        return order[torch.randperm(wanted, generator=generator)] if len(self.groups) > 1 else order

    def __len__(self) -> int:
        return max(1, self.length // processes()[0])


class ShardSampler(_Shared):
    """Every item exactly once over all processes, in order; some processes may get less work, or none.

    Args:
        dataset: The data set to draw from.
        costs: Work of each item, to be distributed evenly; None: all cost the same.
        scored: Whether the items are scored: each process then needs one, or the others would wait for its result.

    Raises:
        DataError: On use, if there are fewer items to score than processes.

    Example:
        >>> list(ShardSampler(["a", "b", "c"]))
        [0, 1, 2]
    """

    def __init__(self, dataset: Dataset[Any], costs: Sequence[int] | None = None, scored: bool = False) -> None:
        super().__init__(dataset)
        self.costs = costs
        self.scored = scored

    @property
    def indices(self) -> list[int]:
        """The items of this process."""
        count, rank = processes()
        items = len(self.dataset)  # type: ignore[arg-type]
        if self.scored and items < count:
            raise DataError(
                f"{items} items to score are fewer than {count} processes: use --trainer.devices {items} or less"
            )
        return distribute(self.costs or [1] * items, count)[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def distribute(costs: Sequence[int], parts: int) -> list[list[int]]:
    """Distribute items by cost: from the costliest down, each goes to the part with the least total so far.

    The result depends on nothing but the arguments, so that every process can compute it for itself.

    Args:
        costs: Cost of each item.
        parts: Number of parts.

    Returns:
        The item numbers of each part, ascending.

    Example:
        >>> distribute([5, 1, 1, 3], parts=2)
        [[0], [1, 2, 3]]
    """
    loads, indices = [0] * parts, [[] for _ in range(parts)]  # type: tuple[list[int], list[list[int]]]
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(parts), key=lambda part: (loads[part], part))
        loads[least] += costs[item]
        indices[least].append(item)
    return [sorted(part) for part in indices]
