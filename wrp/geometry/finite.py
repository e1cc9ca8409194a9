"""Count values that are not finite: they never become labels, and their number is reported."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import backend, quiet, tensor


class NotFinite:
    """Count pixels whose values are not finite, on the device of the values: nothing waits for it before :meth:`take`.

    Several threads may count at once.

    Attributes:
        count: Pixels that were not finite since the last :meth:`take`, a scalar of numpy or torch.
        pixels: All pixels since then.

    Example:
        >>> counter = NotFinite()
        >>> counter.known(torch.tensor([[1.0, float("nan")], [2.0, 3.0]]), dim=0)
        tensor([ True, False])
        >>> counter.take()
        (1, 0.5)
    """

    def __init__(self) -> None:
        self.count: Any = 0
        self.pixels = 0
        self._turn = threading.Lock()

    def known(self, values: Tensor, dim: int) -> Tensor:
        """Return where all values along a dimension are finite, and count where they are not.

        Args:
            values: Any shape, floating point.
            dim: The dimension, e.g. that of channels.

        Returns:
            bool, the shape of ``values`` without the dimension.
        """
        xp, given = backend(values) if values.dtype == torch.float32 else (torch, values)
        with quiet(xp):
            known = tensor(xp.isfinite(given.sum(dim)))
        with self._turn:
            self.count = self.count + (~backend(known)[1]).sum()
            self.pixels += known.numel()
        return known

    def take(self) -> tuple[int, float]:
        """Return how many pixels were not finite since the last call, and their ratio to all, in [0, 1]."""
        count, pixels = int(self.count), self.pixels
        self.count, self.pixels = 0, 0
        return count, count / max(1, pixels)
