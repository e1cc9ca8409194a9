"""What a refiner learns from: the seam between the data modules, which read clips, and who makes examples of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from wrp.types import ClipBatch

if TYPE_CHECKING:
    from torch.utils.data import Dataset


class Windows(Protocol):
    """Labelled frames with their neighbours, by number; each is read when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> ClipBatch: ...


class ExampleSource(ABC):
    """Makes examples for a refiner from labelled frames and their neighbours.

    Each of its data sets has as many items as there are windows, and an item is a batch for
    :class:`~wrp.RefinementModule`.
    """

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that its networks have learned from, see :func:`~wrp.manifest.label_hash`."""
        return frozenset()

    @abstractmethod
    def training(self, windows: Windows, num_classes: int, seed: int) -> Dataset[Any]:
        """Make the training set, whose items are asked for by :class:`~wrp.data.transforms.Draw`, and seeded by it."""

    @abstractmethod
    def validation(self, windows: Windows, num_classes: int) -> Dataset[Any]:
        """Make the validation set: the same examples each time."""
