"""Work that all processes of a training do together: each its part, and all have the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

from wrp.errors import WrpError

Result = TypeVar("Result")


def processes() -> tuple[int, int]:
    """Return how many processes share the work, and the number of this one, whatever launcher started them.

    Example:
        >>> processes()
        (1, 0)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def together(work: Callable[[], Result]) -> list[Result]:
    """Do work in each process, and return the results of all in each of them, in their order.

    Raises:
        WrpError: If the work of any process raises one; it is raised in all of them, so that none waits for ever.

    Example:
        >>> together(lambda: "done")
        ['done']
    """
    found: tuple[Result | None, WrpError | None]
    try:
        found = work(), None
    except WrpError as error:
        found = None, error
    every = [found] * processes()[0]
    if len(every) > 1:
        distributed.all_gather_object(every, found)
    for _, problem in every:
        if problem is not None:
            raise problem
    return [result for result, _ in every]  # type: ignore[misc]


def learning_together() -> int:
    """Return how many processes share a training step: those whose values :func:`mean_over_processes` averages.

    Example:
        >>> learning_together()
        1
    """
    return processes()[0] if torch.is_grad_enabled() else 1


def mean_over_processes(values: Tensor) -> Tensor:
    """Average values over all processes of a training by one ``all_reduce``, without gradient.

    One process alone gets its own values back, and so does each process where no gradients are recorded: in a
    validation, processes may have different numbers of batches, and would wait for one another.

    Args:
        values: Floating point, of the same shape in all processes.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    values = values.detach()
    if (count := learning_together()) > 1:
        values = values.clone()
        distributed.all_reduce(values)
        values /= count
    return values


def in_turns(parts: Sequence[Sequence[Result]]) -> list[Result]:
    """Join what processes have made of items that they took in turns: process r, those numbered r, r + n and so on.

    Example:
        >>> in_turns([["a", "c", "e"], ["b", "d"]])
        ['a', 'b', 'c', 'd', 'e']
    """
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]
