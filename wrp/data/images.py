"""A LightningDataModule for labelled images without video."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.holdout import check_disjoint
from wrp.data.index import files_of, folders_of, label_beside, list_images
from wrp.data.items import FrameItems
from wrp.data.layouts.registry import find_folder
from wrp.data.loaders import BaseDataModule
from wrp.data.transforms import TrainTransform
from wrp.errors import DataError
from wrp.io.label_map import read_label_map
from wrp.io.manifest import label_hash
from wrp.options import SamplingArgs, make_plain
from wrp.structures import Frame, LabelMap, VideoFrame

if TYPE_CHECKING:
    import albumentations


def shared_images(one: Iterable[Frame], other: Iterable[Frame]) -> list[Frame]:
    """Return the frames of ``other`` whose image is one of those of ``one``, be it by another name or a link.

    Example:
        >>> frame = Frame("street", Path("images/street.png"))
        >>> [shared.stem for shared in shared_images([frame], [Frame("a", Path("images/../images/street.png"))])]
        ['a']
    """
    known = {_identity(frame) for frame in one}
    return [frame for frame in other if _identity(frame) in known]


def _identity(frame: Frame) -> tuple[Any, ...]:
    """Return what tells a frame's image from all others: hard links to one file are the same image."""
    path, number = (frame.image.path, frame.image.number) if isinstance(frame.image, VideoFrame) else (frame.image, 0)
    try:
        status = path.stat()
    except OSError:
        return (path.resolve(), number)
    return (status.st_dev, status.st_ino, number) if status.st_ino else (path.resolve(), number)


class ImageData(BaseDataModule):
    """Labelled images without video.

    Expected are ``images/<split>/<stem>.{png,jpg}``, ``labels/<split>/<stem>.png`` and ``classes.yaml``.

    Args:
        num_classes: Number of classes, checked against classes.yaml; None: as many as classes.yaml has.
        root: Folder of the data set, looked for below ``WRP_DATA`` as well.
        train_split: Folder of the training images.
        val_split: Folder of the images for validation, test and prediction.
        sampling: How training crops are drawn.
        workers: Number of loader processes; 0: load in the main process.
        augmentations: Transforms of albumentations for training crops, instead of mirror and colour, see
            :class:`~wrp.data.transforms.TrainTransform`.

    Raises:
        DataError: If ``num_classes`` is not a whole number, or ``root`` is missing; on use, if a folder, or any label
            in it, is missing, or labels are both trained and validated on.

    Example:
        >>> data = ImageData(num_classes=2, root="photos", sampling=SamplingArgs(batch_size=4))
        >>> data.train_split, data.sampling.batch_size
        ('train', 4)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        root: str | None = None,
        train_split: str = "train",
        val_split: str = "val",
        sampling: SamplingArgs | None = None,
        workers: int = 0,
        augmentations: list[albumentations.BasicTransform] | None = None,
    ) -> None:
        super().__init__(num_classes, workers)
        # Not for the logger: it refuses names that model and data give different values.
        self.save_hyperparameters(logger=False, ignore="augmentations")
        make_plain(self.hparams)
        if root is None:
            raise DataError("ImageData needs the folder of its images: give root")
        self.root = root
        self.train_split = train_split
        self.val_split = val_split
        self.sampling: SamplingArgs = sampling or SamplingArgs()
        self.augmentations = augmentations

    @cached_property
    def folder(self) -> Path:
        """The folder of the data set."""
        return find_folder(self.root)

    @cached_property
    def label_map(self) -> LabelMap:
        """The classes."""
        found = read_label_map(self.folder / "classes.yaml")
        self._check_classes(found, self.folder)
        return found

    def frames(self, split: str, labelled: bool = True) -> list[tuple[str, int, Frame]]:
        """Return the images of a split, each with the name of the split and its number.

        Args:
            split: Name of the split.
            labelled: Whether to leave out images without a label.

        Raises:
            DataError: If there is no such folder, or no image in it.
        """
        images = list_images(self.folder / "images" / split, temporal=False)
        labels = self.folder / "labels" / split
        frames = [Frame(image.stem, image, label_beside(labels, image)) for image in images]
        if labelled:
            frames = [frame for frame in frames if frame.label is not None]
        if not frames:
            what = f"with a label in {labels}" if labelled else "at all"
            raise DataError(f"{self.folder / 'images' / split} holds no image {what}")
        return [(split, i, frame) for i, frame in enumerate(frames)]

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, with links resolved; output has to go elsewhere."""
        splits = [split for split in (self.train_split, self.val_split) if (self.folder / "images" / split).is_dir()]
        frames = [frame for split in splits for _, _, frame in self.frames(split, labelled=False)]
        folders = {(self.folder / name).resolve() for name in ("images", "labels")}
        return folders_of(files_of(frames), self.folder) | folders

    @cached_property
    def labels_seen(self) -> frozenset[str]:  # read once, not at each checkpoint
        """The hashes of the training labels."""
        return frozenset(label_hash(frame) for _, _, frame in self.frames(self.train_split))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of augmented crops of labelled images; DataError if no label has a pixel with a class."""
        frames, sampling = self.frames(self.train_split), self.sampling
        require_classes((frame for _, _, frame in frames), self.label_map)
        transform = TrainTransform(sampling.crop_size, seed=sampling.seed, augmentations=self.augmentations)
        items = FrameItems(frames, self.label_map, transform)
        return self._crop_loader(items, sampling.epoch_length or len(items), sampling, sampling.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the labelled images of the validation split; DataError if some are trained on."""
        frames = self.frames(self.val_split)
        # A data set that is only scored needs no training split.
        trains = (self.folder / "images" / self.train_split).is_dir()
        trained = self.frames(self.train_split, labelled=False) if trains else []
        remedy = "name two splits that have no label in common"
        val = [frame for _, _, frame in frames]
        check_disjoint((frame for _, _, frame in trained), val, remedy)
        if both := shared_images((frame for _, _, frame in trained if frame.label is not None), val):
            raise DataError(f"{both[0].image} is trained on as well, under another label: {remedy}")
        return self._frame_loader(frames, self.label_map, scored=True)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader of all images of the validation split, labelled or not, without their labels."""
        return self._frame_loader(self.frames(self.val_split, labelled=False), self.label_map, scored=False)
