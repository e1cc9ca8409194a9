"""A stack of evidence that moves to disk when it grows."""

from __future__ import annotations

import tempfile

import numpy as np
import torch

from wrp.ops.fusion import Evidence
from wrp.types import count_bytes


class EvidenceSpool:
    """Last in, first out: what the later anchor says, collected backward in time and used forward in time.

    Args:
        max_bytes: Memory for evidence; what does not fit waits in a temporary file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._items: list[Evidence | int] = []
        self._file = tempfile.TemporaryFile(prefix="wrp-evidence-")  # noqa: SIM115, closed with this object
        self._device = torch.device("cpu")

    def push(self, evidence: Evidence) -> None:
        """Put evidence on top."""
        self._device = evidence.labels.device
        size = count_bytes(vars(evidence).values())
        if size <= self._room:
            self._room -= size
            self._items.append(evidence)
            return
        self._items.append(self._file.seek(0, 2))
        for value in vars(evidence).values():
            np.save(self._file, value.cpu().numpy())

    def pop(self) -> Evidence:
        """Take the evidence on top; IndexError if there is none."""
        item = self._items.pop()
        if isinstance(item, Evidence):
            self._room += count_bytes(vars(item).values())
            return item
        self._file.seek(item)
        values = [torch.from_numpy(np.load(self._file)).to(self._device) for _ in vars_of_evidence()]
        self._file.truncate(item)
        return Evidence(*values)


def vars_of_evidence() -> list[str]:
    """Names of the fields of :class:`~wrp.ops.fusion.Evidence` in order."""
    return list(Evidence.__dataclass_fields__)
