"""LightningDataModules for video clips with sparse labels and for single images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from wrp.data.clips import ClipIndex, label_beside, list_images, select_clips
from wrp.data.datasets import find_folder, open_index
from wrp.data.datasets.generated import cached_folder
from wrp.data.items import FrameItems, IntervalItems, WindowItems, collate_frames
from wrp.data.labelmaps import read_label_map
from wrp.data.sampling import ShardSampler, TrainSampler
from wrp.data.transforms import TrainTransform
from wrp.types import Clip, DataError, Frame, LabelMap

Serve = Literal["frames", "windows", "intervals"]


class _BaseDataModule(pl.LightningDataModule):
    """Loaders that shard without loss and draw without regard to the number of workers."""

    def __init__(self, num_classes: int, batch_size: int, workers: int, seed: int) -> None:
        super().__init__()
        # Prediction may have fewer intervals than processes; scoring may not, see _eval_loader.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed

    def _check_classes(self, label_map: LabelMap, root: Path | str) -> None:
        if label_map.num_classes != self.num_classes:
            raise DataError(
                f"{root} has {label_map.num_classes} classes ({', '.join(label_map.names)}), got "
                f"num_classes={self.num_classes}"
            )

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _train_loader(self, dataset: Dataset[Any], length: int, batch_size: int | None) -> DataLoader[Any]:
        sampler = TrainSampler(dataset, length, *self._processes(), self.seed)
        collate = collate_frames if batch_size is not None else None
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=self.workers, collate_fn=collate)

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
        batch_size, collate = (1, collate_frames) if frames else (None, None)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=self.workers, collate_fn=collate)


class VideoDataModule(_BaseDataModule):
    """Video clips of which a few frames have labels.

    It serves single labelled frames for :class:`~wrp.SegmentationModule` (``frames``), labelled frames with their
    neighbours for :class:`~wrp.RefinementModule` (``windows``), or intervals between labelled frames for
    :class:`~wrp.PropagationModule` (``intervals``).

    With ``frames``, the anchors and the data set's further labelled images are for training, the hidden frames (or,
    where none are hidden, the anchors) for validation and test, and all frames for prediction.

    Args:
        num_classes: Number of classes; checked against the data set's.
        root: Folder of the data set, looked for below ``WRP_DATA`` as well; None: a street scene is generated into
            ``~/.cache/wrp``.
        layout: ``auto``, ``folder``, ``camvid`` or ``davis``.
        split: Name of a split, where the layout has splits.
        clips: Names of the clips to use; None: all.
        label_every: Keep every K-th label and hide the others; None: use all.
        label_offset: Number of the first label that is kept.
        serve: What a batch is.
        shard: The share of the intervals to predict, ``i/n`` with i in 1 … n: n jobs, wherever they run, label each
            interval once; None: all.
        radius: Neighbours on each side of a window; None: up to the next anchors.
        crop_size: Height and width of training crops in pixels (``frames``).
        batch_size: Crops per batch (``frames``).
        epoch_length: Items per training epoch; None: each once.
        workers: Loader processes.
        seed: Seed of order and augmentation.

    Raises:
        DataError: If the data set is not as its layout wants it.
    """

    def __init__(
        self,
        num_classes: int,
        root: str | None = None,
        layout: str = "auto",
        split: str | None = None,
        clips: list[str] | None = None,
        label_every: int | None = None,
        label_offset: int = 0,
        serve: Serve = "frames",
        shard: str | None = None,
        radius: int | None = None,
        crop_size: tuple[int, int] = (192, 256),
        batch_size: int = 8,
        epoch_length: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, batch_size, workers, seed)
        # Not for the logger: it refuses names such as crop_size that model and data give different values.
        self.save_hyperparameters(logger=False)
        self.root = root
        self.layout = layout
        self.split = split
        self.clips = clips
        self.label_every = label_every
        self.label_offset = label_offset
        if serve not in get_args(Serve):
            raise DataError(f"data.init_args.serve must be one of {', '.join(get_args(Serve))}, got {serve!r}")
        self.serve = serve
        self.shard = read_shard(shard)
        self.radius = radius
        self.crop_size = crop_size
        self.epoch_length = epoch_length
        self.done: frozenset[tuple[str, int, int]] = frozenset()
        self._index: ClipIndex | None = None

    @property
    def index(self) -> ClipIndex:
        """The clips, with labels hidden as asked for."""
        if self._index is None:
            if self.root is None and self.layout not in ("auto", "folder"):
                raise DataError(f"layout {self.layout!r} needs the folder of its data set: pass data.init_args.root")
            root = self.root if self.root is not None else cached_folder(self.num_classes, self.seed)
            found = open_index(root, self.layout, self.split)
            self._check_classes(found.label_map, found.root)
            self._index = select_clips(found, self.clips, self.label_every, self.label_offset)
        return self._index

    @property
    def label_map(self) -> LabelMap:
        """The classes."""
        return self.index.label_map

    def prepare_data(self) -> None:
        """Generate the clip, where none is given, and read the index before any work begins."""
        _ = self.index

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented labelled frames, or windows."""
        if self.serve == "windows":
            windows = WindowItems(self.index.clips, self.label_map, self.radius)
            return self._train_loader(windows, self.epoch_length or len(windows), None)
        self._refuse("intervals", "trains nothing; serve frames or windows")
        transform = TrainTransform(self.crop_size, seed=self.seed)
        frames = FrameItems(self.training_frames(), self.label_map, transform)
        return self._train_loader(frames, self.epoch_length or len(frames), self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Frames kept back for scoring, or windows."""
        if self.serve == "windows":
            return self._eval_loader(WindowItems(self.index.clips, self.label_map, self.radius), frames=False)
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        """Frames kept back for scoring, or intervals with the hidden labels."""
        if self.serve == "intervals":
            return self._eval_loader(IntervalItems(self.index.clips, self.label_map, with_hidden=True), frames=False)
        self._refuse("windows", "tests nothing; serve frames or intervals")
        return self._eval_loader(FrameItems(self._scored_frames(), self.label_map), frames=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """All frames, windows, or intervals without any hidden label."""
        if self.serve == "intervals":
            items = IntervalItems(self.index.clips, self.label_map, done=self.done, shard=self.shard)
            return self._eval_loader(items, frames=False)
        if self.serve == "windows":
            return self.val_dataloader()
        # Labels are not needed to predict, so they are not read.
        frames = [
            (clip.name, i, Frame(frame.stem, frame.image))
            for clip in self.index.clips
            for i, frame in enumerate(clip.frames)
        ]
        return self._eval_loader(FrameItems(frames, self.label_map), frames=True)

    def training_frames(self) -> list[tuple[str, int, Frame]]:
        """The data set's further labelled images and all anchors, each with its clip and index."""
        images = [("", i, frame) for i, frame in enumerate(self.index.images)]
        return images + _numbered(self.index.clips, "anchors")

    def _scored_frames(self) -> list[tuple[str, int, Frame]]:
        return _numbered(self.index.clips, "hidden") or _numbered(self.index.clips, "anchors")

    def _refuse(self, serve: str, why: str) -> None:
        if self.serve == serve:
            raise DataError(f"data.init_args.serve={serve} {why}")


class ImageDataModule(_BaseDataModule):
    """Labelled images without video.

    Expected are ``images/<split>/<stem>.{png,jpg}``, ``labels/<split>/<stem>.png`` and ``classes.yaml``.

    Args:
        num_classes: Number of classes; checked against classes.yaml.
        root: Folder of the data set.
        train_split: Folder of the training images.
        val_split: Folder of the images for validation, test and prediction.
        crop_size: Height and width of training crops in pixels.
        batch_size: Crops per batch.
        epoch_length: Items per training epoch; None: each once.
        workers: Loader processes.
        seed: Seed of order and augmentation.

    Raises:
        DataError: If a folder or label is missing.
    """

    def __init__(
        self,
        num_classes: int,
        root: str,
        train_split: str = "train",
        val_split: str = "val",
        crop_size: tuple[int, int] = (192, 256),
        batch_size: int = 8,
        epoch_length: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, batch_size, workers, seed)
        # Not for the logger: it refuses names such as crop_size that model and data give different values.
        self.save_hyperparameters(logger=False)
        self.root = Path(root)
        self.train_split = train_split
        self.val_split = val_split
        self.crop_size = crop_size
        self.epoch_length = epoch_length
        self._label_map: LabelMap | None = None

    @property
    def label_map(self) -> LabelMap:
        """The classes."""
        if self._label_map is None:
            self.root = find_folder(self.root)
            self._label_map = read_label_map(self.root / "classes.yaml")
            self._check_classes(self._label_map, self.root)
        return self._label_map

    def frames(self, split: str, labelled: bool = True) -> list[tuple[str, int, Frame]]:
        """The images of a split; those without a label are left out where ``labelled``."""
        self.root = find_folder(self.root)
        images = list_images(self.root / "images" / split)
        labels = self.root / "labels" / split
        frames = [Frame(image.stem, image, label_beside(labels, image)) for image in images]
        if labelled:
            frames = [frame for frame in frames if frame.label is not None]
        if not frames:
            what = f"with a label in {labels}" if labelled else "at all"
            raise DataError(f"{self.root / 'images' / split} holds no image {what}")
        return [(split, i, frame) for i, frame in enumerate(frames)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented labelled images."""
        transform = TrainTransform(self.crop_size, seed=self.seed)
        items = FrameItems(self.frames(self.train_split), self.label_map, transform)
        return self._train_loader(items, self.epoch_length or len(items), self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Labelled images of the validation split."""
        return self._eval_loader(FrameItems(self.frames(self.val_split), self.label_map), frames=True)

    def test_dataloader(self) -> DataLoader[Any]:
        """The same as for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """All images of the validation split, labelled or not."""
        return self._eval_loader(FrameItems(self.frames(self.val_split, labelled=False), self.label_map), frames=True)


def read_shard(text: str | None) -> tuple[int, int]:
    """(number from 0, how many there are) of a share ``i/n``; None is all of one; DataError if it is no such thing."""
    number, slash, count = (text or "1/1").partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise DataError(f"a shard must be i/n with i in 1 … n, such as 2/3; got {text!r}")
    return int(number) - 1, int(count)


def _numbered(clips: Sequence[Clip], which: Literal["anchors", "hidden"]) -> list[tuple[str, int, Frame]]:
    return [(clip.name, i, clip.frames[i]) for clip in clips for i in getattr(clip, which)]
