"""What the LightningDataModules share: loaders that shard without loss and draw without regard to workers."""

from __future__ import annotations

import io
import logging
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
from wrp.types import Frame, LabelMap

logger = logging.getLogger("wrp")


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
    """Loaders that shard without loss and draw without regard to the number of workers."""

    def __init__(self, num_classes: int, batch_size: int, workers: int, seed: int, class_uniform: float) -> None:
        super().__init__()
        # Prediction may have fewer intervals than processes; scoring may not, see _eval_loader.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if not isinstance(num_classes, int):
            raise DataError(f"num_classes must be a whole number, got {num_classes!r}; root is the next argument")
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        if not 0 <= class_uniform <= 1:
            raise DataError(f"class_uniform must be in 0 … 1, got {class_uniform}")
        self.class_uniform = class_uniform

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, without links: what is written goes elsewhere."""
        return set()

    def setup(self, stage: str) -> None:
        """Warn where frames are validated on whose labels are trained on: such a score says little."""
        trainer = self.trainer
        if stage != "fit" or trainer is None or not trainer.limit_val_batches or not trainer.is_global_zero:
            return
        trained = {frame.label.resolve() for frame in self.trained_on() if frame.label is not None}
        scored = self.validated_on()
        both = [frame.label for frame in scored if frame.label is not None and frame.label.resolve() in trained]
        if both:
            logger.warning(
                "%d of the %d validation frames are trained on as well, the first is %s: val/ scores say little; keep "
                "labels back (label_every, anchors), or name another split, clip or list",
                len(both),
                len(scored),
                both[0],
            )

    def trained_on(self) -> list[Frame]:
        """The frames whose labels are given to training."""
        return []

    def validated_on(self) -> list[Frame]:
        """The frames whose labels are scored against in validation."""
        return []

    def _check_classes(self, label_map: LabelMap, root: Path | str) -> None:
        if label_map.num_classes != self.num_classes:
            raise DataError(
                f"{root} has {label_map.num_classes} classes ({', '.join(label_map.names)}), got "
                f"num_classes={self.num_classes}"
            )

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _train_loader(
        self,
        dataset: Dataset[Any],
        length: int,
        batch_size: int | None,
        groups: Sequence[tuple[int, float]] | None = None,
        later: Sequence[tuple[int, Sequence[float]]] = (),
        least: int = 1,
    ) -> DataLoader[Any]:
        tiles = None
        if self.class_uniform and isinstance(dataset, FrameItems):
            tiles = class_tiles([frame for _, _, frame in dataset.frames], dataset.label_map)
        sampler = TrainSampler(
            dataset, length, *self._processes(), self.seed, groups, later, tiles, self.class_uniform, least
        )
        collate = Packing(collate_frames if batch_size is not None else None)
        return TrainLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=collate,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _eval_loader(self, dataset: Dataset[Any], frames: bool) -> DataLoader[Any]:
        processes, rank = self._processes()
        sampler = ShardSampler(dataset, processes, rank, getattr(dataset, "costs", None))
        scoring = self.trainer is not None and not self.trainer.predicting
        if scoring and len(dataset) < processes:  # type: ignore[arg-type]
            # A process without items would leave the others waiting for its part of the score.
            raise DataError(
                f"{len(dataset)} items to score are fewer than {processes} processes: use "  # type: ignore[arg-type]
                f"--trainer.devices {len(dataset)} or less"  # type: ignore[arg-type]
            )
        # Frames of one data set may differ in size, so they are evaluated one by one.
        batch_size, collate = (1, Packing(collate_frames)) if frames else (None, Packing())
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=self.workers, collate_fn=collate)
