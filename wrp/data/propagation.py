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
from wrp.data.items import IntervalItems
from wrp.io.manifest import label_hash, written_parts
from wrp.options import SelectArgs, ValArgs, read_shard

logger = logging.getLogger("wrp")


class PropagationData(ClipData):
    """Intervals between keyframes for :class:`~wrp.PropagationModule`.

    Prediction gets the intervals without any label that is held back, test with these. A test of
    :class:`~wrp.SegmentationModule` on intervals scores its temporal consistency, too.

    Args:
        num_classes: Number of classes; checked against the data set's.
        root: See :class:`~wrp.data.clipdata.ClipData`.
        layout: See :class:`~wrp.data.clipdata.ClipData`.
        split: See :class:`~wrp.data.clipdata.ClipData`.
        select: Which clips are used, and which of their labels.
        val: Which labelled frames are for the validation of what learns from the result: they are not propagated.
        shard: The share of the intervals to predict, ``i/n`` with i in 1 … n: n jobs, wherever they run, label each
            interval once; None: all.
        done: A folder of labels, whose intervals are left out of prediction: a run that was stopped goes on.
        workers: Loader processes.

    Raises:
        DataError: If the data set is not as its layout wants it.
    """

    def __init__(
        self,
        num_classes: int,
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
        """The clips, whose keyframes are propagated."""
        train = divide(self.index, self.val, self._open).train
        for clip in train.clips:
            if not clip.keyframes:
                logger.warning(
                    "All labels of clip %s are validated on: it has no keyframe and is not labelled", clip.name
                )
        return train

    @cached_property
    def done(self) -> frozenset[tuple[str, int, int]]:
        """Clip, first frame and number of frames of the intervals that are left out."""
        return written_parts(self.done_in) if self.done_in is not None else frozenset()

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that are propagated."""
        return frozenset(label_hash(frame) for _, _, frame in numbered(self.propagated.clips))

    def setup(self, stage: str) -> None:
        """Find what is done in all processes, before the first of them writes."""
        if stage == "predict":
            _ = self.done

    def intervals(self, shard: tuple[int, int] | None = None) -> IntervalItems:
        """The intervals to predict, of this share or another."""
        return IntervalItems(self.propagated.clips, self.label_map, done=self.done, shard=shard or self.shard)

    def val_dataloader(self) -> DataLoader[Any]:
        """Raise DataError: there is nothing to validate on."""
        raise self._not_served("train or validate")

    def test_dataloader(self) -> DataLoader[Any]:
        """Intervals with the labels that are held back."""
        return self._item_loader(IntervalItems(self.propagated.clips, self.label_map, with_held_out=True), scored=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Intervals without them."""
        return self._item_loader(self.intervals(), scored=False)
