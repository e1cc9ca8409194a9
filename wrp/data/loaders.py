"""What the LightningDataModules share: loaders that shard without loss and draw without regard to workers."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wrp.data.items import FrameItems, collate_frames
from wrp.data.sampling import ShardSampler, TrainSampler
from wrp.data.tiles import class_tiles
from wrp.errors import DataError
from wrp.options import SamplingArgs
from wrp.structures import Frame, LabelMap

SERVED_BY = {
    "train or validate": "SegmentationData, or RefinementData for a refiner",
    "test": "SegmentationData, or PropagationData for whole intervals",
    "predict": "SegmentationData, or PropagationData for whole intervals",
}
"""Data modules for each verb."""


class Packing:
    """A way to join items into a batch that leaves a loader's process as bytes, through a pipe.

    Tensors would leave it through shared memory, in a thread: where that is full (a container has 64 MB of it unless
    told otherwise), the thread drops the batch, and the loader waits for it for ever.

    Args:
        collate: Joins the items; None: what is served is a batch already.
    """

    def __init__(self, collate: Callable[[Any], Any] | None = None) -> None:
        self.collate = collate
        self._watches = False

    def __call__(self, items: Any) -> Any:
        """The batch; what comes out of the other end of the pipe is the batch as well."""
        batch = items if self.collate is None else self.collate(items)
        if get_worker_info() is None:
            return batch
        if not self._watches:
            # The run decides what is left undone: whoever interrupts both of them would wait for the pipe's end.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
            self._watches = True
        return _Packed(batch)


def _end_with(parent: int) -> None:
    """End this process soon after another one: where that is killed, it would wait for room in a pipe for ever."""
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
    """Writes tensors as arrays; of a type that NumPy lacks, as torch does it."""

    def reducer_override(self, found: Any) -> Any:
        """How to write a tensor."""
        if type(found) is torch.Tensor and found.device.type == "cpu" and found.dtype != torch.bfloat16:
            return torch.from_numpy, (found.detach().contiguous().numpy(),)
        return NotImplemented


class TrainLoader(DataLoader[Any]):
    """Loader of a :class:`TrainSampler` that goes on in the middle of an epoch; Lightning saves and loads its state.

    An epoch begins with its first batch: Lightning asks for an iterator before it has set the epoch of a training that
    goes on, and workers would read ahead of the wrong one.
    """

    sampler: TrainSampler
    _served = 0
    _resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        resumed, self._resumed = self._resumed, None
        goes_on = resumed is not None and resumed["epoch"] == self.sampler.epoch
        self._served = resumed["batches"] if resumed is not None and goes_on else 0
        self.sampler.start = self._served * (self.batch_size or 1)
        for batch in super().__iter__():
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were served."""
        return {"epoch": self.sampler.epoch, "batches": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out what was served, if the next epoch is the same one."""
        self._resumed = state


class BaseDataModule(pl.LightningDataModule):
    """Loaders that shard without loss over any launcher's processes, and draw without regard to workers.

    Subclasses say what they read, and which labels they give to training.
    """

    def __init__(self, num_classes: int, workers: int = 0) -> None:
        super().__init__()
        # Prediction may have fewer intervals than processes; scoring may not, see ShardSampler.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if not isinstance(num_classes, int):
            raise DataError(f"num_classes must be a whole number, got {num_classes!r}; root is the next argument")
        self.num_classes = num_classes
        self.workers = workers

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, without links: what is written goes elsewhere."""
        return set()

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that training is given, see :func:`~wrp.io.manifest.label_hash`."""
        return frozenset()

    # Not for validation as well: Lightning leaves it out where nobody has written its method.
    def train_dataloader(self) -> Any:
        """Raise DataError, where a subclass has nothing to train on."""
        raise self._not_served("train or validate")

    def test_dataloader(self) -> Any:
        """Raise DataError, where a subclass has nothing to test on."""
        raise self._not_served("test")

    def predict_dataloader(self) -> Any:
        """Raise DataError, where a subclass has nothing to predict."""
        raise self._not_served("predict")

    def _not_served(self, verb: str) -> DataError:
        name = type(self).__name__
        return DataError(f"{name} serves nothing to {verb}: use another --data, such as {SERVED_BY[verb]}")

    def _check_classes(self, label_map: LabelMap, root: Path | str) -> None:
        if label_map.num_classes != self.num_classes:
            raise DataError(
                f"{root} has {label_map.num_classes} classes ({', '.join(label_map.names)}), got "
                f"num_classes={self.num_classes}"
            )

    def _train_loader(self, sampler: TrainSampler, batch_size: int | None) -> DataLoader[Any]:
        """A loader of batches of crops, or (None) of items that are batches."""
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
        """A loader of crops, so many in an epoch over all processes."""
        tiles = None
        if sampling.class_uniform:
            tiles = class_tiles([frame for _, _, frame in items.frames], items.label_map)
        sampler = TrainSampler(items, length, sampling.seed, groups, later, tiles, sampling.class_uniform)
        return self._train_loader(sampler, batch_size)

    def _frame_loader(self, frames: Sequence[tuple[str, int, Frame]], label_map: LabelMap, scored: bool) -> Any:
        """A loader of whole frames one by one, as frames of one data set may differ in size."""
        items = FrameItems(frames, label_map)
        sampler = ShardSampler(items, scored=scored)
        return DataLoader(
            items, batch_size=1, sampler=sampler, num_workers=self.workers, collate_fn=Packing(collate_frames)
        )

    def _item_loader(self, items: Dataset[Any], scored: bool) -> DataLoader[Any]:
        """A loader of items that are batches, each of which one process gets."""
        sampler = ShardSampler(items, getattr(items, "costs", None), scored)
        return DataLoader(items, batch_size=None, sampler=sampler, num_workers=self.workers, collate_fn=Packing())
