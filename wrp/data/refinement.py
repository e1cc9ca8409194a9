"""Examples of the errors that propagation makes in labels, to train a refiner on."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.clipdata import DividedData
from wrp.data.holdout import numbered
from wrp.data.items import WindowItems
from wrp.data.sampling import TrainSampler
from wrp.options import SelectArgs, ValArgs
from wrp.structures import ExampleSource

# At its first draw, a source computes the flow near a keyframe, which takes as long as several steps.
LEAST_DRAWS = 8


class RefinementData(DividedData):
    """Examples for :class:`~wrp.RefinementModule`, made from keyframes and their neighbours.

    Args:
        num_classes: Number of classes; checked against the data set's.
        examples: Makes the examples, such as :class:`~wrp.refinement.sampler.CycleExamples`.
        root: See :class:`~wrp.data.clipdata.ClipData`.
        layout: See :class:`~wrp.data.clipdata.ClipData`.
        split: See :class:`~wrp.data.clipdata.ClipData`.
        select: Which clips are used, and which of their labels.
        val: Which labelled frames are for validation.
        radius: Context radius: number of frames on each side of a keyframe; None: up to the next keyframes.
        epoch_length: Batches per training epoch; None: one for each keyframe.
        seed: Seed of the order and of the examples.
        workers: Number of loader processes; 0: load in the main process.

    Raises:
        DataError: If ``num_classes`` is not a whole number; on first use, if the data set does not follow its layout,
            or labels are both trained and validated on.

    Example:
        >>> from wrp.refinement.sampler import CycleExamples
        >>> data = RefinementData(num_classes=11, examples=CycleExamples(crops=4), root="camvid", radius=12)
        >>> data.examples.crops, data.radius
        (4, 12)
    """

    def __init__(
        self,
        num_classes: int,
        examples: ExampleSource,
        root: str | None = None,
        layout: str = "auto",
        split: str | None = None,
        select: SelectArgs | None = None,
        val: ValArgs | None = None,
        radius: int | None = None,
        epoch_length: int | None = None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__(num_classes, root, layout, split, select, workers)
        self.examples = examples
        self.val = val or ValArgs()
        self.radius = radius
        self.epoch_length = epoch_length
        self.seed = seed

    def _seen_before(self) -> list[tuple[str, frozenset[str]]]:
        return [("the networks that make the examples have learned from", self.examples.labels_seen)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of examples at the keyframes; DataError if no label has a pixel with a class."""
        train = self.divided.train
        require_classes((frame for _, _, frame in numbered(train.clips)), self.label_map)
        windows = WindowItems(train.clips, self.label_map, self.radius)
        items = self.examples.training(windows, self.num_classes, self.seed)
        length, least = self.epoch_length or len(windows), 1 if self.epoch_length is None else LEAST_DRAWS
        return self._train_loader(TrainSampler(items, length, self.seed, least=least), None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of examples at the held-out frames, the same ones each time."""
        self._validated()
        windows = WindowItems(self.divided.val.clips, self.label_map, self.radius, held_out=True)
        return self._item_loader(self.examples.validation(windows, self.num_classes), scored=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader for validation."""
        return self.val_dataloader()
