"""Loaders that the LightningDataModules share: shards lose no item, and draws do not depend on the workers."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wrp.data.items import FrameItems, collate_frames
from wrp.data.sampling import ShardSampler, TrainSampler
from wrp.data.tiles import class_tiles
from wrp.errors import DataError
from wrp.options import MAX_PROCESSES, SamplingArgs, check_range
from wrp.structures import Frame, LabelMap

SERVED_BY = {
    "train": "SegmentationData, or RefinementData for a refiner",
    "test": "SegmentationData, or PropagationData for whole intervals",
    "predict": "SegmentationData, or PropagationData for whole intervals",
}
"""Data modules that serve what another one lacks, by the verb in the message."""


class Packing:
    """A collate function whose batch leaves a loader's process as bytes, through a pipe.

    Tensors would leave it through shared memory, in a thread: where that is full (a container has 64 MB of it unless
    configured otherwise), the thread drops the batch, and the loader waits for it for ever.

    Args:
        collate: Joins the items; None: each item is a batch already.

    Example:
        >>> Packing(sum)([1, 2, 3])  # in the main process the batch is not packed
        6
    """

    def __init__(self, collate: Callable[[Any], Any] | None = None) -> None:
        self.collate = collate
        self._watches = False

    def __call__(self, items: Any) -> Any:
        """Return the batch; a loader's process returns it packed, and unpickling yields the batch again."""
        batch = items if self.collate is None else self.collate(items)
        if get_worker_info() is None:
            return batch
        if not self._watches:
            # Only the main process handles interrupts: if both were interrupted, it would wait for the end of the pipe.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
            self._watches = True
        return _Packed(batch)


def _end_with(parent: int) -> None:
    """End this process soon after its parent: if that is killed, this one would wait for room in a pipe for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class _Packed:
    def __init__(self, batch: Any) -> None:
        packed = io.BytesIO()
        _Pickler(packed, pickle.HIGHEST_PROTOCOL).dump(batch)
        self.content = packed.getvalue()

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self.content,)


class _Pickler(pickle.Pickler):
    """Pickler that writes tensors as arrays; those of a type that NumPy lacks, as torch does."""

    def reducer_override(self, found: Any) -> Any:
        """Return how to write a tensor."""
        if type(found) is torch.Tensor and found.device.type == "cpu" and found.dtype != torch.bfloat16:
            return torch.from_numpy, (found.detach().contiguous().numpy(),)
        return NotImplemented


class TrainLoader(DataLoader[Any]):
    """Loader of a :class:`TrainSampler` that can resume within an epoch; Lightning saves and loads its state.

    An epoch begins with its first batch: where Lightning resumes a training, it makes an iterator before it has set the
    epoch, and workers would prefetch from the wrong epoch.

    Example:
        >>> items = ["a", "b", "c", "d"]
        >>> TrainLoader(items, batch_size=2, sampler=TrainSampler(items, length=4, seed=0)).state_dict()
        {'epoch': 0, 'batches': 0}
    """

    sampler: TrainSampler
    _served = 0
    _resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        resumed, self._resumed = self._resumed, None
        goes_on = resumed is not None and resumed["epoch"] == self._epoch
        self._served = resumed["batches"] if resumed is not None and goes_on else 0
        self.sampler.start = self._served * (self.batch_size or 1)
        for batch in super().__iter__():
            self._served += 1
            yield batch

    @property
    def _epoch(self) -> int:
        """The epoch; 0 always where Lightning's ``overfit_batches`` has put a sampler of its own in place of ours."""
        return getattr(self.sampler, "epoch", 0)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were served."""
        return {"epoch": self._epoch, "batches": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that were served, if the next epoch is that of ``state``."""
        self._resumed = state


class BaseDataModule(pl.LightningDataModule):
    """Loaders that shard without loss over any launcher's processes, and draw without regard to workers.

    Subclasses override :attr:`reads`, :attr:`labels_seen`, and the loaders that they serve.

    Args:
        num_classes: Number of classes; None: as many as ``label_map`` has, an attribute of subclasses.
        workers: Number of loader processes; 0: load in the main process.

    Raises:
        DataError: If ``num_classes`` is not a whole number.
        WrpError: If there would be too many loader processes.

    Example:
        >>> BaseDataModule(num_classes=11, workers=2).labels_seen
        frozenset()
    """

    sampling: SamplingArgs | None = None

    def __init__(self, num_classes: int | None = None, workers: int = 0) -> None:
        super().__init__()
        # Prediction may have fewer intervals than processes; scoring may not, see ShardSampler.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if not isinstance(num_classes, int | None):
            raise DataError(f"num_classes must be a whole number, got {num_classes!r}; root is the next argument")
        check_range("workers", workers, 0, MAX_PROCESSES)
        self.expected_classes = num_classes
        self.workers = workers

    @property
    def num_classes(self) -> int:
        """The number of classes that was given, else that of the subclass's attribute ``label_map``."""
        if self.expected_classes is not None:
            return self.expected_classes
        label_map: LabelMap = self.label_map  # type: ignore[attr-defined]  # there is no default
        return label_map.num_classes

    @property
    def batch_size(self) -> int:
        """Crops per training batch; Lightning's batch size finder reads and sets it."""
        if self.sampling is None:
            raise AttributeError(f"{type(self).__name__} has no batch size")
        return self.sampling.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        assert self.sampling is not None
        self.sampling = replace(self.sampling, batch_size=size)
        self.hparams["sampling"] = asdict(self.sampling)

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, with links resolved; output has to go elsewhere."""
        return set()

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the training labels, see :func:`~wrp.io.manifest.label_hash`."""
        return frozenset()

    # There is no val_dataloader here: Lightning skips validation if a subclass does not define it.
    def train_dataloader(self) -> Any:
        """Raise DataError; subclasses that have something to train on override this."""
        raise self._not_served("train")

    def test_dataloader(self) -> Any:
        """Raise DataError; subclasses that have something to test on override this."""
        raise self._not_served("test")

    def predict_dataloader(self) -> Any:
        """Raise DataError; subclasses that have something to predict override this."""
        raise self._not_served("predict")

    def _not_served(self, verb: str) -> DataError:
        name = type(self).__name__
        return DataError(f"{name} serves nothing to {verb}: use another --data, such as {SERVED_BY[verb]}")

    def _check_classes(self, label_map: LabelMap, root: Path | str) -> None:
        if self.expected_classes not in (None, label_map.num_classes):
            raise DataError(
                f"{root} has {label_map.num_classes} classes ({', '.join(label_map.names)}), got "
                f"num_classes={self.expected_classes}"
            )

    def _train_loader(self, sampler: TrainSampler, batch_size: int | None) -> DataLoader[Any]:
        """Make a loader of batches of crops or, where ``batch_size`` is None, of items that are batches."""
        return TrainLoader(
            sampler.dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=Packing(collate_frames if batch_size is not None else None),
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _crop_loader(
        self,
        items: FrameItems,
        length: int,
        sampling: SamplingArgs,
        batch_size: int,
        groups: Sequence[tuple[int, float]] | None = None,
        later: Sequence[tuple[int, Sequence[float]]] = (),
    ) -> DataLoader[Any]:
        """Make a loader of crops, ``length`` of them per epoch over all processes."""
        tiles = None
        if sampling.class_uniform:
            tiles = class_tiles([frame for _, _, frame in items.frames], items.label_map)
        sampler = TrainSampler(items, length, sampling.seed, groups, later, tiles, sampling.class_uniform)
        return self._train_loader(sampler, batch_size)

    def _frame_loader(self, frames: Sequence[tuple[str, int, Frame]], label_map: LabelMap, scored: bool) -> Any:
        """Make a loader of whole frames one by one, as frames of one data set may differ in size."""
        items = FrameItems(frames, label_map)
        sampler = ShardSampler(items, scored=scored)
        return DataLoader(
            items, batch_size=1, sampler=sampler, num_workers=self.workers, collate_fn=Packing(collate_frames)
        )

    def _item_loader(self, items: Dataset[Any], scored: bool) -> DataLoader[Any]:
        """Make a loader of items that are batches, each of which goes to one process."""
        sampler = ShardSampler(items, getattr(items, "costs", None), scored)
        pin = torch.cuda.is_available()
        return DataLoader(
            items, batch_size=None, sampler=sampler, num_workers=self.workers, collate_fn=Packing(), pin_memory=pin
        )
