"""A stack of tensors that moves to disk when it grows."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from wrp.io.caching import count_bytes


class DiskStack:
    """Disk-backed stack, last in, first out: filled backward in time and emptied forward in time.

    Use it as a context manager.

    Args:
        max_bytes: Memory for tensors; those that do not fit are kept in a temporary file.

    Example:
        >>> with DiskStack(max_bytes=16) as stack:
        ...     stack.push([torch.tensor([1.0, 2.0])])
        ...     stack.push([torch.tensor([3.0, 4.0, 5.0])])  # beyond 16 bytes: on disk
        ...     print(stack.pop(), stack.pop())
        [tensor([3., 4., 5.])] [tensor([1., 2.])]
    """

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._items: list[list[Tensor] | _Stored] = []
        self._file = tempfile.TemporaryFile(prefix="wrp-stack-")  # noqa: SIM115, closed at the end of the block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def push(self, tensors: list[Tensor]) -> None:
        """Put tensors on top, in one item; at least one tensor."""
        size = count_bytes(tensors)
        if size <= self._room:
            self._room -= size
            self._items.append(tensors)
            return
        self._items.append(_Stored(self._file.seek(0, 2), len(tensors), tensors[0].device))
        for tensor in tensors:
            np.save(self._file, tensor.cpu().numpy())

    def pop(self) -> list[Tensor]:
        """Take the tensors on top, on the device that they came from.

        Raises:
            IndexError: If there are none.
        """
        item = self._items.pop()
        if not isinstance(item, _Stored):
            self._room += count_bytes(item)
            return item
        self._file.seek(item.offset)
        tensors = [torch.from_numpy(np.load(self._file)).to(item.device) for _ in range(item.count)]
        self._file.truncate(item.offset)
        return tensors


class _Stored:
    def __init__(self, offset: int, count: int, device: torch.device) -> None:
        self.offset = offset
        self.count = count
        self.device = device
