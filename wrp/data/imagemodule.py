"""A LightningDataModule for labelled images without video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.clips import files_of, folders_of, label_beside, list_images
from wrp.data.datasets import find_folder
from wrp.data.items import FrameItems
from wrp.data.labelmaps import read_label_map
from wrp.data.loaders import BaseDataModule
from wrp.data.transforms import TrainTransform
from wrp.errors import DataError
from wrp.types import Frame, LabelMap


class ImageDataModule(BaseDataModule):
    """Labelled images without video.

    Expected are ``images/<split>/<stem>.{png,jpg}``, ``labels/<split>/<stem>.png`` and ``classes.yaml``.

    Args:
        num_classes: Number of classes; checked against classes.yaml.
        root: Folder of the data set.
        train_split: Folder of the training images.
        val_split: Folder of the images for validation, test and prediction.
        crop_size: Height and width of training crops in pixels.
        class_uniform: Share of the training crops that show a class which is drawn uniformly, so that rare ones have
            their part; the index of where classes are is kept in ``~/.cache/wrp/tiles``.
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
        class_uniform: float = 0.0,
        batch_size: int = 8,
        epoch_length: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, batch_size, workers, seed, class_uniform)
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

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, without links: what is written goes elsewhere."""
        self.root = find_folder(self.root)
        splits = [split for split in (self.train_split, self.val_split) if (self.root / "images" / split).is_dir()]
        frames = [frame for split in splits for _, _, frame in self.frames(split, labelled=False)]
        return folders_of(files_of(frames), self.root) | {(self.root / name).resolve() for name in ("images", "labels")}

    def trained_on(self) -> list[Frame]:
        """The frames whose labels are given to training."""
        return [frame for _, _, frame in self.frames(self.train_split)]

    def validated_on(self) -> list[Frame]:
        """The frames whose labels are scored against in validation."""
        return [frame for _, _, frame in self.frames(self.val_split)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented labelled images; DataError if their labels hold no class."""
        require_classes(self.trained_on(), self.label_map)
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
