"""Labelled and unlabelled images together, in the layouts of the usual benchmarks, for semi-supervised systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from wrp.data.classes import require_classes
from wrp.data.holdout import check_disjoint
from wrp.data.index import files_of, folders_of, list_images, read_list
from wrp.data.items import FrameItems
from wrp.data.layouts import camvid, cityscapes
from wrp.data.layouts.registry import find_folder
from wrp.data.loaders import BaseDataModule
from wrp.data.transforms import TrainTransform
from wrp.errors import DataError
from wrp.io.images import IMAGE_SUFFIXES
from wrp.io.label_map import read_label_map
from wrp.io.manifest import label_hash
from wrp.options import SamplingArgs, make_plain
from wrp.structures import Frame, LabelMap

_VOC = (
    ("background", (0, 0, 0)), ("aeroplane", (128, 0, 0)), ("bicycle", (0, 128, 0)), ("bird", (128, 128, 0)),
    ("boat", (0, 0, 128)), ("bottle", (128, 0, 128)), ("bus", (0, 128, 128)), ("car", (128, 128, 128)),
    ("cat", (64, 0, 0)), ("chair", (192, 0, 0)), ("cow", (64, 128, 0)), ("dining table", (192, 128, 0)),
    ("dog", (64, 0, 128)), ("horse", (192, 0, 128)), ("motorbike", (64, 128, 128)), ("person", (192, 128, 128)),
    ("potted plant", (0, 64, 0)), ("sheep", (128, 64, 0)), ("sofa", (0, 192, 0)), ("train", (128, 192, 0)),
    ("tv monitor", (0, 64, 128)),
)  # fmt: skip

VOC_MAP = LabelMap(tuple(range(21)), *zip(*_VOC, strict=True))

Find = Callable[[Path, str], tuple[Path, Path]]
"""Maps a data set's folder and a name to the path of the image, without its suffix, and that of its label."""


def _voc(root: Path, name: str) -> tuple[Path, Path]:
    augmented = root / "SegmentationClassAug"
    return root / "JPEGImages" / name, (augmented if augmented.is_dir() else root / "SegmentationClass") / f"{name}.png"


def _cityscapes(root: Path, name: str) -> tuple[Path, Path]:
    """Find names such as ``train/ulm/ulm_000000_000019``."""
    return root / "leftImg8bit" / f"{name}_leftImg8bit", root / "gtFine" / f"{name}_gtFine_labelIds.png"


def _coco(root: Path, name: str) -> tuple[Path, Path]:
    """Find names such as ``train2017/000000000009``, with labels as in COCO-Stuff."""
    return root / "images" / name, root / "annotations" / f"{name}.png"


def _camvid(root: Path, name: str) -> tuple[Path, Path]:
    """Find names such as ``train/0016E5_00390``."""
    split, _, stem = name.rpartition("/")
    return root / split / stem, root / f"{split}annot" / f"{stem}.png"


def _folder(root: Path, name: str) -> tuple[Path, Path]:
    """Find names such as ``train/view0`` in ``images/`` and ``labels/``."""
    return root / "images" / name, root / "labels" / f"{name}.png"


LAYOUTS: dict[str, tuple[Find, LabelMap | None]] = {
    "folder": (_folder, None),
    "voc": (_voc, VOC_MAP),
    "cityscapes": (_cityscapes, cityscapes.LABEL_MAP),
    "coco": (_coco, None),
    "camvid": (_camvid, camvid.LABEL_MAP),
}


def label_map_of(root: Path, layout: str) -> LabelMap:
    """Return the classes of a layout, or those of the folder's classes.yaml; DataError if the layout is unknown."""
    return _known(layout)[1] or read_label_map(root / "classes.yaml")


def _known(layout: str) -> tuple[Find, LabelMap | None]:
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r} of images, expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def find_images(root: Path, layout: str, names: Sequence[str], labelled: bool) -> list[Frame]:
    """Find the images of a list.

    Args:
        root: The data set's folder.
        layout: A name in :data:`LAYOUTS`.
        names: Names of images, as in the layout's own lists.
        labelled: Whether each must have a label; if not, labels are ignored even if they are there.

    Returns:
        The frames in the order of the names; a stem is the name with ``/`` written as ``-``.

    Raises:
        DataError: If the layout is unknown, an image or a label is missing, or two stems are the same.
    """
    find = _known(layout)[0]
    frames = []
    for name in names:
        bare, label = find(root, name)
        image = next(
            (path for suffix in IMAGE_SUFFIXES if (path := bare.with_name(bare.name + suffix)).is_file()), None
        )
        if image is None:
            raise DataError(f"there is no image {bare} with one of the suffixes {', '.join(IMAGE_SUFFIXES)}")
        if labelled and not label.is_file():
            raise DataError(f"there is no label {label} of {image}; take it out of the list of labelled images")
        frames.append(Frame(name.replace("/", "-"), image, label if labelled else None))
    stems = Counter(frame.stem for frame in frames)
    if double := [stem for stem, times in stems.items() if times > 1]:
        raise DataError(f"two images of a list are both named {double[0]!r} once / is written as -; rename one")
    return frames


class SemiSupervisedData(BaseDataModule):
    """Images of which some have labels: a batch is ``{"labelled": FrameBatch, "unlabelled": FrameBatch}``.

    Without a list of unlabelled images, a batch is one of labelled images alone. Labels of unlabelled images are never
    opened.

    Args:
        num_classes: Number of classes; checked against the data set's.
        root: Folder of the data set, looked for below ``WRP_DATA`` as well.
        labelled: List of the labelled images, a file of names as in the layout's own lists; its hash is logged.
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
        DataError: If there is no such folder; on use, if a list, image or label is missing, or labels are both trained
            and validated on.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = SemiSupervisedData(21, folder, "labelled.txt", "unlabelled.txt", layout="voc", unlabelled_size=4)
        >>> data.label_map.names[:2], data.unlabelled_size
        (('background', 'aeroplane'), 4)
    """

    def __init__(
        self,
        num_classes: int,
        root: str,
        labelled: str,
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
        self.root = find_folder(root)
        self.layout = layout
        self.lists = {"labelled": labelled, "unlabelled": unlabelled, "val": val}
        self.pseudo = pseudo
        self.sampling = sampling or SamplingArgs()
        self.unlabelled_size = unlabelled_size or self.sampling.batch_size

    @cached_property
    def label_map(self) -> LabelMap:
        """The classes."""
        found = label_map_of(self.root, self.layout)
        self._check_classes(found, self.root)
        return found

    def images(self, which: str) -> list[Frame]:
        """Return the images of the list ``labelled``, ``unlabelled`` or ``val``; unlabelled ones without labels."""
        path = self.lists[which]
        if path is None:
            return []
        return find_images(self.root, self.layout, read_list(Path(path)), labelled=which != "unlabelled")

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
        labels = {path.stem for path in list_images(folder)}
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
            DataError: If no label has a pixel with a class.
        """
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
        return self._frame_loader(_numbered(frames), self.label_map, scored=True)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the unlabelled images or, if there are none, of those for validation."""
        frames = [Frame(f.stem, f.image) for f in self.images("unlabelled") or self.images("val")]
        return self._frame_loader(_numbered(frames), self.label_map, scored=False)


def _numbered(frames: Sequence[Frame]) -> list[tuple[str, int, Frame]]:
    return [("images", i, frame) for i, frame in enumerate(frames)]
