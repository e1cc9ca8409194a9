"""Work that all processes of a training do together: each its part, and all have the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import distributed

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


def in_turns(parts: Sequence[Sequence[Result]]) -> list[Result]:
    """Join what processes have made of items that they took in turns: process r, those numbered r, r + n and so on.

    Example:
        >>> in_turns([["a", "c", "e"], ["b", "d"]])
        ['a', 'b', 'c', 'd', 'e']
    """
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]
