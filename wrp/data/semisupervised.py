"""Labelled and unlabelled images together, in the layouts of the usual benchmarks, for semi-supervised systems."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.holdout import check_disjoint
from wrp.data.images import shared_images
from wrp.data.index import files_of, folders_of, list_images
from wrp.data.items import FrameItems
from wrp.data.layouts.registry import find_folder
from wrp.data.lists import find_images, label_map_of, read_names
from wrp.data.loaders import BaseDataModule
from wrp.data.transforms import TrainTransform
from wrp.errors import DataError
from wrp.io.manifest import label_hash
from wrp.options import SamplingArgs, make_plain
from wrp.structures import Frame, LabelMap


class SemiSupervisedData(BaseDataModule):
    """Images of which some have labels: a batch is ``{"labelled": FrameBatch, "unlabelled": FrameBatch}``.

    Without a list of unlabelled images, a batch is one of labelled images alone. Labels of unlabelled images are never
    opened.

    Args:
        num_classes: Number of classes, checked against the data set's; None: as many as the data set has.
        root: Folder of the data set, looked for below ``WRP_DATA`` as well.
        labelled: List of the labelled images, a file of lines as :func:`~wrp.data.lists.find_images` reads them: names
            as in the layout's own lists, or paths of images and labels below ``root``; its hash is logged.
        unlabelled: List of the others; None: none.
        val: List of the images for validation, test and prediction.
        layout: ``folder`` (``images/``, ``labels/``, ``classes.yaml``), ``voc``, ``cityscapes``, ``coco`` (with a
            ``classes.yaml``), or ``camvid``.
        pseudo: Folder with a label ``<name>.png`` for each unlabelled image, ``/`` in names written as ``-``; images
            without one are left out. None: they are served without labels.
        sampling: How labelled training crops are drawn.
        unlabelled_size: Unlabelled crops per batch; None: as many as labelled ones.
        workers: Number of loader processes; 0: load in the main process.

    Raises:
        DataError: If there is no such folder, or no list of labelled images is given; on use, if a list, image or label
            is missing, or an image is both trained and validated on, with its label or without.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = SemiSupervisedData(21, folder, "labelled.txt", "unlabelled.txt", layout="voc", unlabelled_size=4)
        >>> data.label_map.names[:2], data.unlabelled_size
        (('background', 'aeroplane'), 4)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        root: str | None = None,
        labelled: str | None = None,
        unlabelled: str | None = None,
        val: str | None = None,
        layout: str = "folder",
        pseudo: str | None = None,
        sampling: SamplingArgs | None = None,
        unlabelled_size: int | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(num_classes, workers)
        self.save_hyperparameters(logger=False)
        make_plain(self.hparams)
        if root is None or labelled is None:
            raise DataError("SemiSupervisedData needs its folder and a list of labelled images: give root and labelled")
        self.root = find_folder(root)
        self.layout = layout
        self.lists = {"labelled": labelled, "unlabelled": unlabelled, "val": val}
        self.pseudo = pseudo
        self.sampling: SamplingArgs = sampling or SamplingArgs()
        self.unlabelled_size = unlabelled_size or self.sampling.batch_size

    @cached_property
    def label_map(self) -> LabelMap:
        """The classes."""
        scored = (frame for which in ("labelled", "val") for frame in self.images(which))
        found = label_map_of(self.root, self.layout, scored)
        self._check_classes(found, self.root)
        return found

    def images(self, which: str) -> list[Frame]:
        """Return the images of the list ``labelled``, ``unlabelled`` or ``val``; unlabelled ones without labels."""
        if which not in self.lists:
            raise ValueError(f"expected one of {', '.join(self.lists)}, got {which!r}")
        return list(getattr(self, f"_{which}"))

    # Found once: there may be a hundred thousand.
    @cached_property
    def _labelled(self) -> list[Frame]:
        return self._find("labelled")

    @cached_property
    def _unlabelled(self) -> list[Frame]:
        return self._find("unlabelled")

    @cached_property
    def _val(self) -> list[Frame]:
        return self._find("val")

    def _find(self, which: str) -> list[Frame]:
        path = self.lists[which]
        if path is None:
            return []
        try:
            return find_images(self.root, self.layout, read_names(Path(path)), labelled=which != "unlabelled")
        except DataError as error:
            raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    def check_apart(self, one: str, other: str) -> None:
        """Raise DataError if an image is in two of the lists, under whatever name: the files are compared.

        Args:
            one: ``labelled``, ``unlabelled`` or ``val``.
            other: Another of them.
        """
        if both := shared_images(self.images(one), self.images(other)):
            more = f", and {len(both) - 1} more are" if len(both) > 1 else ""
            raise DataError(
                f"{both[0].stem} is in both {self.lists[one]} and {self.lists[other]}{more}; remove it from one"
            )

    @property
    def reads(self) -> set[Path]:
        """The folders that files are read from, with links resolved; output has to go elsewhere."""
        folders = folders_of(files_of(frame for which in self.lists for frame in self.images(which)), self.root)
        return folders if self.pseudo is None else folders | {Path(self.pseudo).resolve()}

    @cached_property
    def labels_seen(self) -> frozenset[str]:  # read once, not at each checkpoint
        """The hashes of the training labels."""
        return frozenset(label_hash(frame) for frame in self.images("labelled"))

    def pseudo_labelled(self) -> list[Frame]:
        """Return the unlabelled images with their labels in ``pseudo``, without those that have none.

        Without ``pseudo``, all unlabelled images are returned as they are.

        Raises:
            DataError: If the folder holds no label of any of them.
        """
        frames = self.images("unlabelled")
        if self.pseudo is None:
            return frames
        folder = Path(self.pseudo)
        labels = {path.stem for path in list_images(folder, temporal=False)}
        found = [Frame(one.stem, one.image, folder / f"{one.stem}.png") for one in frames if one.stem in labels]
        if frames and not found:
            raise DataError(
                f"{folder} holds no pseudo-label of the {len(frames)} unlabelled images: expected PNGs with their "
                f"names, as {frames[0].stem}.png"
            )
        return found

    def train_dataloader(self) -> Any:
        """Return a loader of augmented crops of labelled images and, if there are any, of unlabelled ones.

        Raises:
            DataError: If no label has a pixel with a class, or an image is to be validated on as well.
        """
        self._check_val()
        frames, sampling = self.images("labelled"), self.sampling
        require_classes(frames, self.label_map)
        transform = TrainTransform(sampling.crop_size, seed=sampling.seed)
        labelled = FrameItems(_numbered(frames), self.label_map, transform)
        length = sampling.epoch_length or len(labelled)
        loader = self._crop_loader(labelled, length, sampling, sampling.batch_size)
        if not (pseudo := self.pseudo_labelled()):
            return loader
        others = FrameItems(_numbered(pseudo), self.label_map, transform)
        wanted = -(-length // sampling.batch_size) * self.unlabelled_size
        more = self._crop_loader(others, wanted, sampling, self.unlabelled_size)
        return CombinedLoader({"labelled": loader, "unlabelled": more}, "min_size")

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the images for validation; DataError if there are none, or some are trained on."""
        frames = self.images("val")
        if not frames:
            raise DataError("there is nothing to score: pass data.init_args.val, a list of labelled images")
        check_disjoint(self.images("labelled"), frames, "take them out of one of the lists")
        self._check_val()
        return self._frame_loader(_numbered(frames), self.label_map, scored=True)

    def _check_val(self) -> None:
        """Refuse images that are both trained and validated on: a score on them says nothing."""
        for which in ("labelled", "unlabelled"):
            self.check_apart(which, "val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the unlabelled images or, if there are none, of those for validation."""
        frames = [Frame(f.stem, f.image) for f in self.images("unlabelled") or self.images("val")]
        return self._frame_loader(_numbered(frames), self.label_map, scored=False)


def _numbered(frames: Sequence[Frame]) -> list[tuple[str, int, Frame]]:
    return [("images", i, frame) for i, frame in enumerate(frames)]
