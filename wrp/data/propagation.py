"""Intervals between keyframes, to propagate labels through."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from wrp.data.clipdata import ClipData
from wrp.data.holdout import divide, numbered
from wrp.data.index import ClipIndex
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.io.manifest import label_hash, written_parts
from wrp.options import SelectArgs, ValArgs, read_shard

logger = logging.getLogger("wrp")


class PropagationData(ClipData):
    """Intervals between keyframes for :class:`~wrp.PropagationModule`.

    Prediction serves the intervals without held-out labels, validation and test with them. A test of
    :class:`~wrp.SegmentationModule` on intervals also scores its temporal consistency.

    Args:
        num_classes: Number of classes, checked against the data set's; None: as many as the data set has.
        root: See :class:`~wrp.data.clipdata.ClipData`.
        layout: See :class:`~wrp.data.clipdata.ClipData`.
        split: See :class:`~wrp.data.clipdata.ClipData`.
        select: Which clips are used, and which of their labels.
        val: Which labelled frames are for the validation of a network that is trained on the result: they are not
            propagated.
        shard: The part of the intervals to predict, ``i/n`` with i in 1 … n: n jobs, on any machines, label each
            interval once; None: all.
        done: A folder of labels; intervals that it holds completely are left out of prediction, so that a stopped run
            goes on.
        workers: Number of loader processes; 0: load in the main process.

    Raises:
        DataError: If an argument is malformed; on first use, if the data set does not follow its layout.

    Example:
        >>> PropagationData(num_classes=11, root="camvid", shard="2/4").shard
        (1, 4)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        root: str | None = None,
        layout: str = "auto",
        split: str | None = None,
        select: SelectArgs | None = None,
        val: ValArgs | None = None,
        shard: str | None = None,
        done: str | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(num_classes, root, layout, split, select, workers)
        self.val = val or ValArgs()
        self.shard = read_shard(shard or "1/1", "a shard")
        self.done_in = Path(done) if done is not None else None

    @cached_property
    def propagated(self) -> ClipIndex:
        """The clips whose keyframes are propagated, without the labels for validation."""
        train = divide(self.index, self.val, self._open).train
        for clip in train.clips:
            if not clip.keyframes and not clip.by_network:
                logger.warning(
                    "All labels of clip %s are validated on: it has no keyframe and is not labelled", clip.name
                )
        return train

    @cached_property
    def done(self) -> frozenset[tuple[str, int, int]]:
        """Clip, first frame and number of frames of each interval that is left out."""
        return written_parts(self.done_in) if self.done_in is not None else frozenset()

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that are propagated."""
        return frozenset(label_hash(frame) for _, _, frame in numbered(self.propagated.clips))

    def setup(self, stage: str) -> None:
        """Find the finished intervals in every process, before the first process writes."""
        if stage == "predict":
            _ = self.done

    def intervals(self, shard: tuple[int, int] | None = None) -> IntervalItems:
        """Return the intervals of ``shard``, (number from 0, number of parts); None: of this data module's shard."""
        return IntervalItems(self.propagated.clips, self.label_map, done=self.done, shard=shard or self.shard)

    def calibration_items(self) -> HeldOutItems:
        """Return the keyframes between two others, on which the confidence can be calibrated."""
        return HeldOutItems(self.propagated.clips, self.label_map)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the intervals with their held-out labels, the same as for a test."""
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the intervals with their held-out labels."""
        return self._item_loader(IntervalItems(self.propagated.clips, self.label_map, with_held_out=True), scored=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the intervals without held-out labels."""
        return self._item_loader(self.intervals(), scored=False)
