"""Examples of what propagation does to labels, to train a refiner on."""

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

# A source follows the flow around a keyframe the first time it meets it, which takes as long as several steps.
LEAST_DRAWS = 8


class RefinementData(DividedData):
    """Examples for :class:`~wrp.RefinementModule`, made from keyframes and the frames around them.

    Args:
        num_classes: Number of classes; checked against the data set's.
        examples: Makes the examples, such as :class:`~wrp.refinement.sampler.CycleExamples`.
        root: See :class:`~wrp.data.clipdata.ClipData`.
        layout: See :class:`~wrp.data.clipdata.ClipData`.
        split: See :class:`~wrp.data.clipdata.ClipData`.
        select: Which clips are used, and which of their labels.
        val: Which labelled frames are for validation.
        radius: Frames on each side of a keyframe; None: up to the next keyframes.
        epoch_length: Batches per training epoch; None: one for each keyframe.
        seed: Seed of order and examples.
        workers: Loader processes.

    Raises:
        DataError: If the data set is not as its layout wants it, or labels that are validated on are trained on.
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
        return [("the networks that the examples are made with have learned from", self.examples.labels_seen)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Examples at the keyframes; DataError if their labels hold no class."""
        train = self.divided.train
        require_classes((frame for _, _, frame in numbered(train.clips)), self.label_map)
        windows = WindowItems(train.clips, self.label_map, self.radius)
        items = self.examples.training(windows, self.num_classes, self.seed)
        length, least = self.epoch_length or len(windows), 1 if self.epoch_length is None else LEAST_DRAWS
        return self._train_loader(TrainSampler(items, length, self.seed, least=least), None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Examples at the frames that are held back, the same ones each time."""
        self._validated()
        windows = WindowItems(self.divided.val.clips, self.label_map, self.radius, held_out=True)
        return self._item_loader(self.examples.validation(windows, self.num_classes), scored=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The same as for validation."""
        return self.val_dataloader()
