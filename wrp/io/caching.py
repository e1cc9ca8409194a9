"""A cache of bounded size for results that are costly to compute."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from torch import Tensor

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Keep the results of a costly function while they fit into ``max_bytes``; the least recently used goes first.

    The last result is always kept, whatever its size.

    Args:
        max_bytes: Memory for the results in bytes.
        size: Returns the size of a result in bytes.

    Example:
        >>> cache = BoundedCache(max_bytes=4, size=len)
        >>> [cache.get(key, lambda: b"abc") for key in ("first", "second")]
        [b'abc', b'abc']
        >>> cache.held_bytes
        3
    """

    def __init__(self, max_bytes: int, size: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._size = size
        self._items: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of ``key``; compute it by ``make`` if it is not held."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        value = make()
        self.held_bytes += self._size(value)
        self._items[key] = value
        while self.held_bytes > self.max_bytes and len(self._items) > 1:
            self.held_bytes -= self._size(self._items.popitem(last=False)[1])
        return value

    def drop(self, key: Key) -> None:
        """Drop one value, if it is held."""
        if key in self._items:
            self.held_bytes -= self._size(self._items.pop(key))


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the memory that the elements of these tensors take, in bytes."""
    return sum(tensor.nbytes for tensor in tensors)
