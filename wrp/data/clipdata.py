"""Base of the data modules over the clips of a data set, of which a few frames have labels."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import Self

from wrp.data.holdout import Division, Labelled, check_disjoint, divide, numbered
from wrp.data.index import ClipIndex, select_clips
from wrp.data.layouts.registry import open_index
from wrp.data.loaders import BaseDataModule
from wrp.data.synthetic.folder import cached_folder
from wrp.errors import DataError
from wrp.io.manifest import label_hash
from wrp.options import SelectArgs, ValArgs, make_plain
from wrp.structures import LabelMap

APART = (
    "give data.init_args.val.split, .clips, .keyframes or .ratio, or hold labels back by data.init_args.select; "
    "val.overlap=true scores on training labels all the same, --trainer.limit_val_batches=0 does without"
)
"""How to get validation labels that are not trained on; the end of the messages below."""

SCENE_CLASSES = 10
"""Number of classes of the generated street scene, unless another one is given."""


class ClipData(BaseDataModule):
    """Base of the data modules over the clips of a data set, of which a few frames have labels.

    Args:
        num_classes: Number of classes, checked against the data set's; None: as many as the data set has.
        root: Folder of the data set, looked for below ``WRP_DATA`` as well; None: a street scene is generated into
            ``~/.cache/wrp``.
        layout: ``auto`` or the name of a layout, see :func:`wrp.data.layouts.registry.layouts`.
        split: Name of a split, if the layout has splits.
        select: Which clips are used, and which of their labels.
        workers: Number of loader processes; 0: load in the main process.

    Raises:
        DataError: If ``num_classes`` is not a whole number; on first use, if the data set does not follow its layout or
            has another number of classes.

    Example:
        >>> data = ClipData(num_classes=11, root="camvid", layout="camvid", split="val")
        >>> data.split, data.labels_seen
        ('val', frozenset())
    """

    def __init__(
        self,
        num_classes: int | None = None,
        root: str | None = None,
        layout: str = "auto",
        split: str | None = None,
        select: SelectArgs | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(num_classes, workers)
        # Not for the logger: it refuses names such as crop_size that model and data give different values.
        self.save_hyperparameters(logger=False, ignore=["propagated", "examples", "augmentations"])
        make_plain(self.hparams)
        self.root = root
        self.layout = layout
        self.split = split
        self.select = select or SelectArgs()
        self._given: ClipIndex | None = None

    @classmethod
    def over(cls, index: ClipIndex, **options: Any) -> Self:
        """Make a data module over clips that were opened before; the other arguments are passed by name."""
        data = cls(index.label_map.num_classes, root=str(index.root), layout=index.layout, **options)
        data._given = index
        return data

    @cached_property
    def index(self) -> ClipIndex:
        """The clips, with labels held out as ``select`` defines."""
        if self._given is not None:
            return self._given
        return select_clips(self._open(self.split), self.select)

    def _open(self, split: str | None) -> ClipIndex:
        if self.root is None and self.layout not in ("auto", "folder"):
            raise DataError(f"layout {self.layout!r} needs the folder of its data set: pass data.init_args.root")
        root = self.root if self.root is not None else cached_folder(self.expected_classes or SCENE_CLASSES, 0)
        found = open_index(root, self.layout, split, labels=self.select.labels)
        self._check_classes(found.label_map, found.root)
        return found

    @property
    def label_map(self) -> LabelMap:
        """The classes."""
        return self.index.label_map

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, with links resolved; output has to go elsewhere."""
        return self.index.reads

    def prepare_data(self) -> None:
        """Generate the clip if no root is given, and read the index before any work begins."""
        _ = self.index


class DividedData(ClipData):
    """Base of the data modules that divide the labelled frames between training and validation.

    Subclasses set ``val``.

    Example:
        >>> class Frames(DividedData):
        ...     val = ValArgs(ratio=0.2)
        >>> Frames(num_classes=11, root="camvid").val.ratio
        0.2
    """

    val: ValArgs

    @cached_property
    def divided(self) -> Division:
        """The clips for training and those for validation; DataError if ``val`` names what is not there."""
        return divide(self.index, self.val, self._open)

    @cached_property
    def labels_seen(self) -> frozenset[str]:  # read once, not at each checkpoint
        """The hashes of the training labels and of the labels behind further training inputs, such as networks."""
        own = frozenset(label_hash(frame) for _, _, frame in self._trained())
        return own.union(*(seen for _, seen in self._seen_before()))

    def setup(self, stage: str) -> None:
        """Refuse labels that are both trained and validated on, before any work is done."""
        if stage == "fit" and self.trainer is not None and self.trainer.enable_validation:
            self._validated()

    def _trained(self) -> list[Labelled]:
        return numbered(self.divided.train.clips)

    def _validated(self) -> list[Labelled]:
        """Return the frames to score; raise DataError if there are none, or any was trained on or seen before."""
        frames = numbered(self.divided.val.clips, held_out=True)
        if not frames:
            raise DataError(f"no label of {self.index.root} is held back to validate on: {APART}")
        if not self.val.overlap:
            check_disjoint((frame for _, _, frame in self._trained()), [frame for _, _, frame in frames], APART)
            for what, seen in self._seen_before():
                both = [frame.label for _, _, frame in frames if seen and label_hash(frame) in seen]
                if both:
                    raise DataError(
                        f"{what} {len(both)} of the {len(frames)} validation labels, the first is {both[0]}: {APART}"
                    )
        return frames

    def _seen_before(self) -> list[tuple[str, frozenset[str]]]:
        """Describe each training input besides the training labels, with the hashes of the labels behind it."""
        return []
