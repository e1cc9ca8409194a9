"""The LightningDataModule for video clips with sparse labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.clips import ClipIndex, select_clips
from wrp.data.datasets import open_index
from wrp.data.datasets.generated import cached_folder
from wrp.data.items import FrameItems, IntervalItems, WindowItems
from wrp.data.loaders import BaseDataModule
from wrp.data.propagated import PropagatedLabels
from wrp.data.transforms import TrainTransform
from wrp.errors import DataError
from wrp.types import Clip, Frame, LabelMap

# A refiner follows the flow through a window the first time it meets it, which takes as long as several steps.
WINDOW_DRAWS = 8

Serve = Literal["frames", "windows", "intervals"]


class VideoDataModule(BaseDataModule):
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
        layout: ``auto`` or the name of a layout, see :data:`wrp.data.datasets.LAYOUTS`.
        split: Name of a split, where the layout has splits.
        clips: Names of the clips to use; None: all.
        label_every: Keep every K-th label and hide the others; None: use all.
        label_offset: Number of the first label that is kept.
        anchors: A file with the labels to keep, lines ``<clip>/<frame>``, instead of every K-th.
        serve: What a batch is.
        shard: The share of the intervals to predict, ``i/n`` with i in 1 … n: n jobs, wherever they run, label each
            interval once; None: all.
        radius: Neighbours on each side of a window; None: up to the next anchors.
        leave_out: A fold ``i/n`` of the anchors to leave out of training, every n-th from number i on (``frames``): for
            a teacher that has not seen frames at which the refiner asks it.
        propagated: Propagated labels to train on beside the ground truth (``frames``).
        unlabelled: Share of the training crops that come from frames without a label, for a module that guesses them
            (``frames``).
        further_images: Whether to train on the data set's labelled images outside of the clips as well (``frames``).
        crop_size: Height and width of training crops in pixels (``frames``).
        class_uniform: Share of the training crops that show a class which is drawn uniformly, so that rare ones have
            their part; the index of where classes are is kept in ``~/.cache/wrp/tiles``.
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
        anchors: str | None = None,
        serve: Serve = "frames",
        shard: str | None = None,
        radius: int | None = None,
        leave_out: str | None = None,
        propagated: PropagatedLabels | None = None,
        unlabelled: float = 0.0,
        further_images: bool = True,
        crop_size: tuple[int, int] = (192, 256),
        class_uniform: float = 0.0,
        batch_size: int = 8,
        epoch_length: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, batch_size, workers, seed, class_uniform)
        # Not for the logger: it refuses names such as crop_size that model and data give different values.
        self.save_hyperparameters(logger=False, ignore=["propagated"])
        self.root = root
        self.layout = layout
        self.split = split
        self.clips = clips
        self.label_every = label_every
        self.label_offset = label_offset
        self.anchors = Path(anchors) if anchors is not None else None
        if serve not in get_args(Serve):
            raise DataError(f"data.init_args.serve must be one of {', '.join(get_args(Serve))}, got {serve!r}")
        self.serve = serve
        self.shard = read_share(shard or "1/1", "a shard")
        self.radius = radius
        self.leave_out = read_share(leave_out, "a fold to leave out") if leave_out is not None else None
        self.propagated = propagated
        if not 0 <= unlabelled < 1:
            raise DataError(f"unlabelled must be at least 0 and below 1, got {unlabelled}")
        self.unlabelled = unlabelled
        self.further_images = further_images
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
            self._index = select_clips(found, self.clips, self.label_every, self.label_offset, self.anchors)
        return self._index

    @property
    def label_map(self) -> LabelMap:
        """The classes."""
        return self.index.label_map

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, without links: what is written goes elsewhere."""
        return self.index.reads

    def prepare_data(self) -> None:
        """Generate the clip, where none is given, and read the index before any work begins."""
        _ = self.index

    def trained_on(self) -> list[Frame]:
        """The frames whose labels are given to training."""
        if self.serve == "windows":
            return [frame for _, _, frame in _numbered(self.index.clips, "anchors")]
        return [frame for _, _, frame in self.training_frames()] if self.serve == "frames" else []

    def validated_on(self) -> list[Frame]:
        """The frames whose labels are scored against in validation."""
        if self.serve == "windows":
            return self.trained_on()
        return [frame for _, _, frame in self._scored_frames()]

    def train_dataloader(self) -> Any:
        """Augmented labelled frames, or windows; DataError if their labels hold no class."""
        if self.serve == "windows":
            require_classes(self.trained_on(), self.label_map)
            windows = WindowItems(self.index.clips, self.label_map, self.radius)
            if self.epoch_length is None:
                return self._train_loader(windows, len(windows), None)
            return self._train_loader(windows, self.epoch_length, None, least=WINDOW_DRAWS)
        self._refuse("intervals", "trains nothing; serve frames or windows")
        truth, propagated = self.training_frames(), self.propagated
        more = propagated.frames(self.index.clips) if propagated is not None else []
        require_classes((frame for _, _, frame in (*truth, *more)), self.label_map)
        if propagated is not None and propagated.apart:
            return self._apart(truth, propagated)
        parts = [truth]
        labelled = 1 - self.unlabelled
        by_epoch: list[tuple[int, list[float]]] = [(0, [labelled])]
        if propagated is not None:
            first, rest = propagated.split(more)
            parts += [first, rest]
            share, of_first = labelled * propagated.share, len(first) / len(first + rest)
            by_epoch = [(0, [labelled - share, share * of_first, share * (1 - of_first)])]
            if first:
                by_epoch = [(0, [labelled - share, share, 0.0]), (propagated.reliable_first, by_epoch[0][1])]
            if propagated.truth_last:
                by_epoch.append((self._epochs() - propagated.truth_last, [labelled, 0.0, 0.0]))
        if self.unlabelled:
            parts.append(self._unlabelled_frames())
            by_epoch = [(epoch, [*shares, self.unlabelled]) for epoch, shares in by_epoch]
        items = self._train_items([frame for part in parts for frame in part])
        groups = [(len(part), share) for part, share in zip(parts, by_epoch[0][1], strict=True)]
        return self._train_loader(items, self.epoch_length or len(items), self.batch_size, groups, by_epoch[1:])

    def _train_items(self, frames: list[tuple[str, int, Frame]]) -> FrameItems:
        weigh = self.propagated.weigh if self.propagated is not None else torch.clone
        return FrameItems(frames, self.label_map, TrainTransform(self.crop_size, seed=self.seed), weigh)

    def _apart(self, truth: list[tuple[str, int, Frame]], propagated: PropagatedLabels) -> CombinedLoader:
        """Ground truth and propagated labels as batches of their own, together of the usual size."""
        if self.batch_size < 2:
            raise DataError(
                f"batch_size must be at least 2 with propagated.apart, one of each kind, got {self.batch_size}"
            )
        items = self._train_items(truth), self._train_items(propagated.frames(self.index.clips))
        steps = (self.epoch_length or len(items[0]) + len(items[1])) // self.batch_size
        size = min(max(1, round(self.batch_size * propagated.share)), self.batch_size - 1)
        sizes = self.batch_size - size, size
        loaders = [self._train_loader(i, max(1, steps) * n, n) for i, n in zip(items, sizes, strict=True)]
        return CombinedLoader(dict(zip(("labelled", "unlabelled"), loaders, strict=True)), "min_size")

    def _unlabelled_frames(self) -> list[tuple[str, int, Frame]]:
        frames = [
            (clip.name, i, Frame(frame.stem, frame.image))
            for clip in self.index.clips
            for i, frame in enumerate(clip.frames)
            if i not in clip.anchors
        ]
        if not frames:
            raise DataError(f"{self.index.root} has no frame without a label, so unlabelled must be 0")
        return frames

    def _epochs(self) -> int:
        """How many epochs the training has, which the last ones are counted from."""
        last = self.propagated.truth_last if self.propagated is not None else 0
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        if epochs is None or epochs < last:
            raise DataError(
                f"propagated.truth_last={last} needs --trainer.max_epochs of at least as many, got {epochs}"
            )
        return epochs

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
        images = [("", i, frame) for i, frame in enumerate(self.index.images if self.further_images else ())]
        anchors = _numbered(self.index.clips, "anchors")
        if self.leave_out is not None:
            fold, folds = self.leave_out
            anchors = [anchor for number, anchor in enumerate(anchors) if number % folds != fold]
        if not images + anchors:
            raise DataError(f"leaving out every anchor of {self.index.root} leaves nothing to train on")
        return images + anchors

    def _scored_frames(self) -> list[tuple[str, int, Frame]]:
        return _numbered(self.index.clips, "hidden") or _numbered(self.index.clips, "anchors")

    def _refuse(self, serve: str, why: str) -> None:
        if self.serve == serve:
            raise DataError(f"data.init_args.serve={serve} {why}")


def read_share(text: str, what: str) -> tuple[int, int]:
    """(number from 0, how many there are) of a share ``i/n``; DataError if it is no such thing."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise DataError(f"{what} must be i/n with i in 1 … n, such as 2/3; got {text!r}")
    return int(number) - 1, int(count)


def _numbered(clips: Sequence[Clip], which: Literal["anchors", "hidden"]) -> list[tuple[str, int, Frame]]:
    return [(clip.name, i, clip.frames[i]) for clip in clips for i in getattr(clip, which)]
