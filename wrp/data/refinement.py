"""Examples of the errors that propagation makes in labels, to train a refiner on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset

from wrp.data.classes import require_classes
from wrp.data.clipdata import DividedData
from wrp.data.holdout import numbered
from wrp.data.items import WindowItems
from wrp.data.loaders import Packing, TrainLoader
from wrp.data.sampling import TrainSampler
from wrp.errors import DataError
from wrp.io.together import processes
from wrp.options import SelectArgs, ValArgs
from wrp.structures import IGNORE_INDEX, ExampleSource, RefinerExamples, RefinerInput

# Examples of a keyframe in a training, at least: the flow around it takes as long as several steps. Where a training is
# too short for that, it learns from fewer keyframes, drawn at random.
LEAST_EXAMPLES = 48


class RefinementData(DividedData):
    """Examples for :class:`~wrp.RefinementModule`, made from keyframes and their neighbours.

    Args:
        num_classes: Number of classes, checked against the data set's; None: as many as the data set has.
        examples: Makes the examples, such as :class:`~wrp.refinement.sampler.CycleExamples`.
        root: See :class:`~wrp.data.clipdata.ClipData`.
        layout: See :class:`~wrp.data.clipdata.ClipData`.
        split: See :class:`~wrp.data.clipdata.ClipData`.
        select: Which clips are used, and which of their labels.
        val: Which labelled frames are for validation.
        radius: Context radius: number of frames on each side of a keyframe; None: up to the next keyframes.
        epoch_length: Batches of each process per training epoch, i.e. training steps; None: as many as give each
            keyframe the examples of one batch.
        seed: Seed of the order and of the examples.
        workers: Number of loader processes; 0: load in the main process.

    Raises:
        DataError: If ``num_classes`` is not a whole number, or ``examples`` is missing; on first use, if the data set
            does not follow its layout, or labels are both trained and validated on.

    Example:
        >>> from wrp.refinement.sampler import CycleExamples
        >>> data = RefinementData(num_classes=11, examples=CycleExamples(crops=4), root="camvid", radius=12)
        >>> data.examples.crops, data.radius
        (4, 12)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        examples: ExampleSource | None = None,
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
        if examples is None:
            raise DataError("RefinementData needs what makes its examples: give examples, such as CycleExamples")
        self.examples = examples
        self.val = val or ValArgs()
        self.radius = radius
        self.epoch_length = epoch_length
        self.seed = seed

    @property
    def batch_size(self) -> int:
        """Examples per training batch; Lightning's batch size finder reads and sets it."""
        return self.examples.crops

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.examples.crops = size

    def _seen_before(self) -> list[tuple[str, frozenset[str]]]:
        return [("the networks that make the examples have learned from", self.examples.labels_seen)]

    def setup(self, stage: str) -> None:
        """Before a training, make all that its examples and those of its validation follow from."""
        super().setup(stage)
        if stage == "fit":
            self._training()
            if self.trainer is not None and self.trainer.enable_validation:
                self._validation(self.trainer.limit_val_batches)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of examples at the keyframes; DataError if no label has a pixel with a class."""
        items, crops = self._training(), self.examples.crops
        length = len(self._windows) if self.epoch_length is None else self.epoch_length * processes()[0]
        return TrainLoader(
            items,
            batch_size=crops,
            # The examples of a batch come from one keyframe: with mixed ones a refiner fits few keyframes too well, and
            # loses a point of mIoU (CamVid, K = 50, docs/negative-results.md).
            sampler=TrainSampler(items, length * crops, self.seed, repeat=crops),
            num_workers=self.workers,
            collate_fn=Packing(collate_examples),
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of examples at the held-out frames, the same ones each time."""
        return self._item_loader(self._validation(self.trainer.limit_val_batches if self.trainer else 1.0), scored=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the same examples as for validation."""
        limit = self.trainer.limit_predict_batches if self.trainer else 1.0
        return self._item_loader(self._validation(limit), scored=True)

    @cached_property
    def _windows(self) -> WindowItems:
        train = self.divided.train
        require_classes((frame for _, _, frame in numbered(train.clips)), self.label_map)
        return WindowItems(train.clips, self.label_map, self.radius)

    @cached_property
    def _made(self) -> dict[tuple[str, int], Dataset[Any]]:
        """The data sets by their purpose and number of windows, which the Trainer may limit."""
        return {}

    def _training(self) -> Dataset[Any]:
        count = min(len(self._windows), max(1, int(min(self._examples_drawn() / LEAST_EXAMPLES, 2**31))))
        if ("train", count) not in self._made:
            chosen = torch.randperm(len(self._windows), generator=torch.Generator().manual_seed(self.seed))[:count]
            windows = Subset(self._windows, sorted(chosen.tolist())) if count < len(self._windows) else self._windows
            self._made["train", count] = self.examples.training(windows, self.num_classes, self.seed)
        return self._made["train", count]

    def _examples_drawn(self) -> float:
        """Return the number of examples of the whole training, as far as the Trainer limits it."""
        if self.trainer is None:
            return math.inf
        steps, epochs, each = self.trainer.max_steps, self.trainer.max_epochs, processes()[0]
        epoch = len(self._windows) if self.epoch_length is None else self.epoch_length * each
        by_steps = steps * self.trainer.accumulate_grad_batches * each if steps >= 0 else math.inf
        by_epochs = epochs * epoch if epochs is not None and epochs >= 0 else math.inf
        return self.examples.crops * min(by_steps, by_epochs)

    def _validation(self, limit: float) -> Dataset[Any]:
        """Return the validation set, without the frames that a Trainer with this limit on the batches leaves out."""
        self._validated()
        windows = WindowItems(self.divided.val.clips, self.label_map, self.radius, held_out=True)
        # A whole number is one of each process, and frames go to the processes in turns.
        count = min(len(windows), limit * processes()[0]) if isinstance(limit, int) else len(windows)
        if ("val", count) not in self._made:
            some = Subset(windows, range(count))
            self._made["val", count] = self.examples.validation(some, self.num_classes)
        return self._made["val", count]


def collate_examples(items: Sequence[RefinerExamples]) -> RefinerExamples:
    """Join examples into one batch; smaller ones are filled up with pixels without a class.

    Example:
        >>> def example(width):
        ...     soft, cues = torch.full((1, 2, 4, width), 0.5), torch.zeros(1, 4, 4, width)
        ...     inputs = RefinerInput(torch.zeros(1, 3, 4, width), soft, soft, cues, soft)
        ...     return RefinerExamples(inputs, torch.zeros(1, 4, width, dtype=torch.uint8), ["a"], [str(width)], [0])
        >>> batch = collate_examples([example(5), example(6)])
        >>> batch.stems, batch.inputs.image.shape, batch.labels[0, 0].tolist()
        (['5', '6'], torch.Size([2, 3, 4, 6]), [0, 0, 0, 0, 0, 255])
    """
    if len(items) == 1:
        return items[0]
    height, width = (max(item.labels.shape[side] for item in items) for side in (1, 2))

    def join(maps: Sequence[Tensor], outside: int = 0) -> Tensor:
        sizes = [(0, width - one.shape[-1], 0, height - one.shape[-2]) for one in maps]
        return torch.cat([functional.pad(one, size, value=outside) for one, size in zip(maps, sizes, strict=True)])

    return RefinerExamples(
        RefinerInput(*(join(maps) for maps in zip(*(vars(item.inputs).values() for item in items), strict=True))),
        join([item.labels for item in items], IGNORE_INDEX),
        [clip for item in items for clip in item.clips],
        [stem for item in items for stem in item.stems],
        [index for item in items for index in item.indices],
    )
