"""Lists of images: where the images and the labels that they name lie, in the layouts of the usual benchmarks."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wrp.data.layouts import camvid, cityscapes
from wrp.errors import DataError, check_choice
from wrp.io.label_map import read_ids, read_label_map
from wrp.io.listing import IMAGE_SUFFIXES, LABEL_SUFFIXES, same_form
from wrp.io.opening import read_text
from wrp.structures import IGNORE_INDEX, Frame, LabelMap

logger = logging.getLogger("wrp")

_VOC = (
    ("background", (0, 0, 0)), ("aeroplane", (128, 0, 0)), ("bicycle", (0, 128, 0)), ("bird", (128, 128, 0)),
    ("boat", (0, 0, 128)), ("bottle", (128, 0, 128)), ("bus", (0, 128, 128)), ("car", (128, 128, 128)),
    ("cat", (64, 0, 0)), ("chair", (192, 0, 0)), ("cow", (64, 128, 0)), ("dining table", (192, 128, 0)),
    ("dog", (64, 0, 128)), ("horse", (192, 0, 128)), ("motorbike", (64, 128, 128)), ("person", (192, 128, 128)),
    ("potted plant", (0, 64, 0)), ("sheep", (128, 64, 0)), ("sofa", (0, 192, 0)), ("train", (128, 192, 0)),
    ("tv monitor", (0, 64, 128)),
)  # fmt: skip

VOC_MAP = LabelMap(tuple(range(21)), *zip(*_VOC, strict=True))

# Cityscapes as most other programs read it: its classes are numbered 0 … 18.
TRAIN_IDS = LabelMap(tuple(range(19)), cityscapes.LABEL_MAP.names, cityscapes.LABEL_MAP.colors)


@dataclass(frozen=True)
class ImageLayout:
    """Where the images of a data set lie, and their labels, by the names that its own lists have.

    Attributes:
        image: Path of an image below the data set's folder, without suffix; ``{name}`` stands for its name.
        labels: Paths of its label, without suffix, of which the first counts whose folder is there; ``{folder}`` and
            ``{stem}`` are the parts of its name before and behind the last slash.
        classes: The classes; None: the data set has a ``classes.yaml``.

    Example:
        >>> LAYOUTS["camvid"].label_of(Path("camvid"), "train/0016E5_00390").as_posix()
        'camvid/trainannot/0016E5_00390'
        >>> LAYOUTS["cityscapes"].name_of("leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit")
        'train/ulm/ulm_000000_000019'
    """

    image: str
    labels: tuple[str, ...]
    classes: LabelMap | None = None

    def name_of(self, path: str) -> str | None:
        """Return the name of an image by its path below the data set's folder, or None if images lie elsewhere."""
        before, behind = self.image.split("{name}")
        if not (path.startswith(before) and path.endswith(behind) and len(path) > len(before + behind)):
            return None
        return path[len(before) : len(path) - len(behind)]

    def paths_of(self, written: str) -> list[str]:
        """Return the paths, below the data set's folder, of the images that a name in a list may mean."""
        before, _ = self.image.split("{name}")
        return [self.image.format(name=written), before + written, written]

    def label_of(self, root: Path, name: str) -> Path:
        """Return the path of an image's label, without its suffix."""
        folder, _, stem = name.rpartition("/")
        paths = [root / label.format(name=name, folder=folder, stem=stem) for label in self.labels]
        there = [path for path, label in zip(paths, self.labels, strict=True) if (root / label.split("/")[0]).is_dir()]
        return [*there, *paths][0]


LAYOUTS: dict[str, ImageLayout] = {
    "folder": ImageLayout("images/{name}", ("labels/{name}",)),
    "voc": ImageLayout("JPEGImages/{name}", ("SegmentationClassAug/{name}", "SegmentationClass/{name}"), VOC_MAP),
    "cityscapes": ImageLayout(
        "leftImg8bit/{name}_leftImg8bit", ("gtFine/{name}_gtFine_labelIds",), cityscapes.LABEL_MAP
    ),
    "coco": ImageLayout("images/{name}", ("annotations/{name}",)),
    "camvid": ImageLayout("{name}", ("{folder}annot/{stem}",), camvid.LABEL_MAP),
}
"""How images lie, by name, as in Pascal VOC, Cityscapes, COCO-Stuff, SegNet's CamVid, or the package's own layout."""


def label_map_of(root: Path, layout: str, frames: Iterable[Frame] = ()) -> LabelMap:
    """Return the classes of a layout, or those of the folder's classes.yaml.

    Args:
        root: The data set's folder.
        layout: A name in :data:`LAYOUTS`.
        frames: Frames whose labels will be read: those of Cityscapes may hold either ids or train ids.

    Raises:
        DataError: If the layout is unknown, there is no classes.yaml, or labels hold ids of both kinds.
    """
    classes = _known(layout).classes
    if classes is cityscapes.LABEL_MAP:
        return _cityscapes_map([frame.label for frame in frames if frame.label is not None])
    return classes or read_label_map(root / "classes.yaml")


def _known(layout: str) -> ImageLayout:
    check_choice("layout", layout, LAYOUTS, kind=DataError)
    return LAYOUTS[layout]


def _cityscapes_map(labels: Sequence[Path], most: int = 16) -> LabelMap:
    """Tell whether labels hold the ids of Cityscapes or its train ids: by their names or, failing that, their values.

    Args:
        labels: The label files.
        most: How many labels are looked into, at most: hardly a street shows neither vegetation nor sky, 21 and 23.

    Raises:
        DataError: If there are both.
    """
    train = [path for path in labels if path.stem.endswith("labelTrainIds")]
    ids = [path for path in labels if path.stem.endswith("labelIds")]
    others = [path for path in labels if not path.stem.endswith(("labelTrainIds", "labelIds", "color"))]
    if others:
        high = range(len(TRAIN_IDS.ids), IGNORE_INDEX)
        values = (read_ids(path)[0] for path in others[:most])
        seen = any(one.ndim == 3 or ((one >= high.start) & (one < high.stop)).any() for one in values)
        logger.info("%s and others hold %s", others[0], "the ids of Cityscapes" if seen else "train ids, 0 … 18")
        (ids if seen else train).extend(others)
    if train and ids:
        raise DataError(f"{train[0]} holds train ids, {ids[0]} the ids of Cityscapes; list labels of one kind")
    return TRAIN_IDS if train else cityscapes.LABEL_MAP


def read_names(path: Path) -> list[str]:
    """Read the lines of a list of images as :func:`read_lines` does, and log the hash of its content."""
    lines = read_lines(path)
    logged = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    logger.info("%s: %d entries, sha256 %s", path, len(lines), logged)
    return lines


def read_lines(path: Path) -> list[str]:
    r"""Read the lines of a list of images.

    Empty lines and those that begin with ``#`` are left out.

    Raises:
        DataError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labelled.txt")
        ...     _ = path.write_text("# of 2007\nJPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png\n")
        ...     read_lines(path)
        ['JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png']
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def find_images(root: Path, layout: str, names: Sequence[str], labelled: bool) -> list[Frame]:
    """Find the images of a list.

    Args:
        root: The data set's folder.
        layout: A name in :data:`LAYOUTS`.
        names: Lines of the list: a name as in the layout's own lists, such as ``2007_000032``; the path of an image
            below ``root``; or the paths of an image and of its label, separated by a blank, a tab or a comma, such as
            ``JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png``. Suffixes may be left out.
        labelled: Whether each must have a label; if not, labels are ignored even if they are there.

    Returns:
        The frames in the order of the names. A stem is the name with ``/`` written as ``-``; of an image that lies
        elsewhere, the path without its suffix.

    Raises:
        DataError: If the layout is unknown, an image or a label is missing, one is named twice, or two stems are the
            same.
    """
    kind, images, labels = _known(layout), _Files(IMAGE_SUFFIXES), _Files(LABEL_SUFFIXES)
    frames: list[Frame] = []
    for line in names:
        image, given = _find_image(root, kind, images, line.strip())
        path = image.relative_to(root).with_suffix("").as_posix()
        name = kind.name_of(path)
        label = _find_label(root, kind, labels, image, name, given) if labelled else None
        frames.append(Frame((name or path).replace("/", "-"), image, label))
    _refuse_double(frames, names)
    return frames


class _Files:
    """Finds files by paths with or without their suffix, which may be written in either case, as may Unicode's forms.

    Args:
        suffixes: Suffixes in lower case; of several files, the one with the first suffix is taken.
    """

    def __init__(self, suffixes: Sequence[str]) -> None:
        self.suffixes = suffixes
        self.folders: dict[Path, dict[str, list[Path]]] = {}

    def find(self, path: Path) -> Path | None:
        """Return a file, or None if there is none."""
        if path.parent not in self.folders:
            self.folders[path.parent] = self._list(path.parent)
        folder, name = self.folders[path.parent], same_form(path.name)
        whole = folder.get(name, [])
        parted = folder.get(same_form(path.stem), []) if path.suffix.lower() in self.suffixes else []
        return min(
            (file for file in whole or parted if file.is_file()),
            key=lambda file: (
                same_form(file.name) != name,
                file.suffix.lower() != path.suffix.lower(),
                self.suffixes.index(file.suffix.lower()),
                file.name,
            ),
            default=None,
        )

    def _list(self, folder: Path) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        try:
            for file in folder.iterdir():
                if file.suffix.lower() in self.suffixes:
                    found.setdefault(same_form(file.stem), []).append(file)
        except (OSError, ValueError):  # no folder, or no name of one
            return {}
        return found


def _find_image(root: Path, kind: ImageLayout, files: _Files, line: str) -> tuple[Path, str | None]:
    """Return the image of a line, and what the line names as its label, if anything.

    Raises:
        DataError: If there is no such image, or the line leads out of the data set.
    """
    for written, label in _splits(line):
        # A line with blanks is no single path: cut at the front, that of the label in it would be an image.
        for path in _below(root, written)[: None if label is not None or written.split() == [written] else 1]:
            # A name comes first where it stands alone, a path where that of a label follows.
            choice = [path] if _is_absolute(written) else kind.paths_of(path)
            for candidate in choice if label is None else reversed(choice):
                if (image := files.find(root / candidate)) is not None:
                    return image, label
    written = next((first for first, label in _splits(line) if label is not None), line)
    if _is_absolute(written) or ".." in _plain(written).split("/"):
        raise DataError(f"{line!r} leads out of the data set {root}, or there is no such file in it")
    expected = root / (_plain(written) if written != line else kind.paths_of(_plain(line))[0])
    raise DataError(
        f"there is no image {expected} with one of the suffixes {', '.join(IMAGE_SUFFIXES)}; a line is a name of "
        f"{kind.image}, or the paths of an image and its label below {root}"
    )


def _find_label(root: Path, kind: ImageLayout, files: _Files, image: Path, name: str | None, given: str | None) -> Path:
    """Return the label of an image: the one that its line names or, without one, the one in its place.

    Raises:
        DataError: If there is no such label.
    """
    own = None if name is None else kind.label_of(root, name)
    if given is None:
        if own is None:
            raise DataError(
                f"{image} does not lie in {kind.image}, so its label is not known; write the label's path behind it"
            )
        if (label := files.find(own)) is None:
            raise DataError(f"there is no label {own}.png of {image}; take it out of the list of labelled images")
        return label
    for path in _below(root, given):
        places = [root / path] if _is_absolute(given) else [root / path, kind.label_of(root, path)]
        for place in places:
            if (label := place if place.is_file() else files.find(place)) is not None:
                return label
    there = files.find(own) if own is not None else None
    hint = f"list {there.relative_to(root)}, which is there" if there is not None else "correct the path"
    raise DataError(
        f"there is no label {root / _plain(given).lstrip('/')} of {image}; {hint}, or take it out of the list of "
        "labelled images"
    )


def _splits(line: str) -> Iterator[tuple[str, str | None]]:
    """Yield what a line may mean: one name or path, or two of which the first is the image's.

    Names may have blanks in them; a tab never is a part of one.
    """
    if "\t" not in line:
        yield line, None
    gaps = re.finditer(r"[ ]*\t\s*" if "\t" in line else r"\s*[,;]\s*|\s+", line)
    pairs = [(line[: gap.start()], line[gap.end() :]) for gap in gaps]
    yield from sorted(pairs, key=lambda pair: not pair[0].lower().endswith(IMAGE_SUFFIXES))


def _plain(written: str) -> str:
    """Return a path with slashes, without a leading ``./`` or a drive."""
    written = re.sub(r"^[A-Za-z]:(?=/)", "", written.strip("\"'").replace("\\", "/"))
    return re.sub(r"^(?:\./+)+", "", written)


def _is_absolute(written: str) -> bool:
    return _plain(written).startswith("/")


def _below(root: Path, written: str) -> list[str]:
    """Return the paths below the data set's folder that a written path may mean.

    Those that begin with a slash are meant from the data set's folder, or from where the author of the list had it:
    SegNet's list has ``/SegNet/CamVid/train/0001TP_006690.png``.
    """
    path = _plain(written)
    parts = [part for part in path.split("/") if part]
    if not parts or ".." in parts:
        return []
    if not path.startswith("/"):
        return ["/".join(parts)]
    for base in {root.absolute(), root.resolve()}:
        if Path(path).is_relative_to(base):
            return [Path(path).relative_to(base).as_posix()]
    if Path(path).exists():
        return []
    return ["/".join(parts[start:]) for start in range(max(1, len(parts) - 1))]


def _refuse_double(frames: Sequence[Frame], names: Sequence[str]) -> None:
    """Raise DataError if two lines name one image, or two images would have one stem."""
    lines: dict[Path, str] = {}
    for frame, line in zip(frames, names, strict=True):
        assert isinstance(frame.image, Path)
        image = frame.image.resolve()
        if image in lines:
            as_what = "twice" if lines[image] == line else f"as {lines[image]!r} and as {line!r}"
            raise DataError(f"{frame.image} is listed {as_what}; take one of them out")
        lines[image] = line
    stems = Counter(frame.stem for frame in frames)
    if double := [stem for stem, times in stems.items() if times > 1]:
        raise DataError(f"two images of a list are both named {double[0]!r} once / is written as -; rename one")
