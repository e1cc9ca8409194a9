"""Single frames of clips, to train segmentation networks on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.clipdata import DividedData
from wrp.data.holdout import Labelled, numbered
from wrp.data.items import FrameItems
from wrp.data.propagated import PropagatedLabels
from wrp.data.transforms import TrainTransform
from wrp.errors import DataError
from wrp.io.manifest import SEEN, seen_labels
from wrp.options import SamplingArgs, SelectArgs, ValArgs, read_shard
from wrp.structures import Frame

if TYPE_CHECKING:
    import albumentations

logger = logging.getLogger("wrp")


class SegmentationData(DividedData):
    """Single labelled frames for :class:`~wrp.SegmentationModule`.

    Training draws from the keyframes and the data set's further labelled images, validation and test serve the held-out
    frames, and prediction all frames.

    Args:
        num_classes: Number of classes, checked against the data set's; None: as many as the data set has.
        root: See :class:`~wrp.data.clipdata.ClipData`.
        layout: See :class:`~wrp.data.clipdata.ClipData`.
        split: See :class:`~wrp.data.clipdata.ClipData`.
        select: Which clips are used, and which of their labels.
        val: Which labelled frames are for validation and test.
        sampling: How training crops are drawn.
        propagated: Propagated labels to train on beside the ground truth.
        further_images: Whether to train on the data set's labelled images outside of the clips as well.
        leave_out: A fold ``i/n`` of the keyframes to leave out of training, every n-th from number i on: for a teacher
            whose predictions the refiner uses at frames that the teacher was not trained on.
        workers: Number of loader processes; 0: load in the main process.
        augmentations: Transforms of albumentations for training crops, instead of mirror and colour, see
            :class:`~wrp.data.transforms.TrainTransform`.

    Raises:
        DataError: If an argument is malformed; on first use, if the data set does not follow its layout, or labels are
            both trained and validated on.

    Example:
        >>> data = SegmentationData(num_classes=11, root="camvid", sampling=SamplingArgs(batch_size=4), leave_out="1/3")
        >>> data.sampling.batch_size, data.leave_out
        (4, (0, 3))
    """

    def __init__(
        self,
        num_classes: int | None = None,
        root: str | None = None,
        layout: str = "auto",
        split: str | None = None,
        select: SelectArgs | None = None,
        val: ValArgs | None = None,
        sampling: SamplingArgs | None = None,
        propagated: PropagatedLabels | None = None,
        further_images: bool = True,
        leave_out: str | None = None,
        workers: int = 0,
        augmentations: list[albumentations.BasicTransform] | None = None,
    ) -> None:
        super().__init__(num_classes, root, layout, split, select, workers)
        self.augmentations = augmentations
        self.val = val or ValArgs()
        self.sampling: SamplingArgs = sampling or SamplingArgs()
        self.propagated = propagated
        self.further_images = further_images
        self.leave_out = read_shard(leave_out, "a fold to leave out") if leave_out is not None else None

    def training_frames(self) -> list[Labelled]:
        """Return the further labelled images and the keyframes to train on, each with its clip and index."""
        train = self.divided.train
        images = [("", i, frame) for i, frame in enumerate(train.images if self.further_images else ())]
        keyframes = numbered(train.clips)
        if self.leave_out is not None:
            fold, folds = self.leave_out
            keyframes = [keyframe for number, keyframe in enumerate(keyframes) if number % folds != fold]
        if not images + keyframes:
            raise DataError(f"leaving out every keyframe of {self.index.root} leaves nothing to train on")
        return images + keyframes

    def _trained(self) -> list[Labelled]:
        return self.training_frames()

    def _seen_before(self) -> list[tuple[str, frozenset[str]]]:
        if self.propagated is None:
            return []
        folder = self.propagated.folder
        if not (Path(folder) / SEEN).is_file():
            logger.warning("There is no %s/%s: it is not known which labels those in it were made from", folder, SEEN)
        what = f"the labels in {folder} were propagated from, or by networks that have seen,"
        return [(what, seen_labels(Path(folder)))]

    def train_dataloader(self) -> Any:
        """Return a loader of augmented labelled frames; DataError if no label has a pixel with a class."""
        truth, propagated, sampling = self.training_frames(), self.propagated, self.sampling
        more = propagated.frames(self.divided.train.clips) if propagated is not None else []
        require_classes((frame for _, _, frame in (*truth, *more)), self.label_map)
        if propagated is not None and propagated.apart:
            return self._apart(truth, more, propagated)
        parts = [truth]
        labelled = 1 - sampling.unlabelled
        by_epoch: list[tuple[int, list[float]]] = [(0, [labelled])]
        if propagated is not None:
            first, rest = propagated.split(more)
            parts += [first, rest]
            ratio, of_first = labelled * propagated.ratio, len(first) / len(first + rest)
            by_epoch = [(0, [labelled - ratio, ratio * of_first, ratio * (1 - of_first)])]
            if first:
                by_epoch = [(0, [labelled - ratio, ratio, 0.0]), (propagated.reliable_first, by_epoch[0][1])]
            if propagated.truth_last:
                by_epoch.append((self._epochs() - propagated.truth_last, [labelled, 0.0, 0.0]))
        if sampling.unlabelled:
            parts.append(self._unlabelled_frames())
            by_epoch = [(epoch, [*ratios, sampling.unlabelled]) for epoch, ratios in by_epoch]
        items = self._train_items([frame for part in parts for frame in part])
        groups = [(len(part), ratio) for part, ratio in zip(parts, by_epoch[0][1], strict=True)]
        length = sampling.epoch_length or len(items)
        return self._crop_loader(items, length, sampling, sampling.batch_size, groups, by_epoch[1:])

    def _train_items(self, frames: list[Labelled]) -> FrameItems:
        weigh = self.propagated.weigh if self.propagated is not None else torch.clone
        sampling = self.sampling
        transform = TrainTransform(sampling.crop_size, seed=sampling.seed, augmentations=self.augmentations)
        return FrameItems(frames, self.label_map, transform, weigh)

    def _apart(self, truth: list[Labelled], more: list[Labelled], propagated: PropagatedLabels) -> CombinedLoader:
        """Serve ground truth and propagated labels as separate batches, together of the usual size."""
        sampling = self.sampling
        if sampling.batch_size < 2:
            raise DataError(
                f"sampling.batch_size must be at least 2 with propagated.apart, one of each kind, got "
                f"{sampling.batch_size}"
            )
        items = self._train_items(truth), self._train_items(more)
        steps = (sampling.epoch_length or len(items[0]) + len(items[1])) // sampling.batch_size
        size = min(max(1, round(sampling.batch_size * propagated.ratio)), sampling.batch_size - 1)
        sizes = sampling.batch_size - size, size
        loaders = [self._crop_loader(i, max(1, steps) * n, sampling, n) for i, n in zip(items, sizes, strict=True)]
        return CombinedLoader(dict(zip(("labelled", "unlabelled"), loaders, strict=True)), "min_size")

    def _unlabelled_frames(self) -> list[Labelled]:
        train = self.divided.train
        frames = [
            (clip.name, i, Frame(frame.stem, frame.image))
            for clip in train.clips
            for i, frame in enumerate(clip.frames)
            if clip.distance(i) or not clip.keyframes
        ]
        if not frames:
            raise DataError(f"{train.root} has no frame without a label, so sampling.unlabelled must be 0")
        return frames

    def _epochs(self) -> int:
        """Return the number of training epochs, from which the last ones are counted."""
        last = self.propagated.truth_last if self.propagated is not None else 0
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        if epochs is None or epochs < last:
            raise DataError(
                f"propagated.truth_last={last} needs --trainer.max_epochs of at least as many, got {epochs}"
            )
        return epochs

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the held-out frames for scoring."""
        return self._frame_loader(self._validated(), self.divided.val.label_map, scored=True)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader of all frames, without labels."""
        # Labels are not needed to predict, so they are not read.
        frames = [
            (clip.name, i, Frame(frame.stem, frame.image))
            for clip in self.index.clips
            for i, frame in enumerate(clip.frames)
        ]
        return self._frame_loader(frames, self.label_map, scored=False)
