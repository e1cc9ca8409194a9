"""Values that are not finite: they never become labels, and somebody is told how many there were."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import backend, quiet, tensor


class NotFinite:
    """Count pixels whose values are not finite, on their device: nobody waits for it before :meth:`take`.

    Several threads may count at once.
    """

    def __init__(self) -> None:
        self.count: Any = 0
        self.pixels = 0
        self._turn = threading.Lock()

    def known(self, values: Tensor, dim: int) -> Tensor:
        """Where all values along a dimension are finite: bool, the shape of ``values`` without it."""
        xp, given = backend(values) if values.dtype == torch.float32 else (torch, values)
        with quiet(xp):
            known = tensor(xp.isfinite(given.sum(dim)))
        with self._turn:
            self.count = self.count + (~backend(known)[1]).sum()
            self.pixels += known.numel()
        return known

    def take(self) -> tuple[int, float]:
        """How many pixels were not finite and their share of all, since the last time."""
        count, pixels = int(self.count), self.pixels
        self.count, self.pixels = 0, 0
        return count, count / max(1, pixels)
