"""Listing the files of a folder: one rule for frames, labels and videos."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from wrp.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""Suffixes of frames, in lower case."""

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Suffixes of labels, in lower case. These formats keep every value."""

# What operating systems and notebooks leave behind; names that begin with a dot are left out besides.
_LEFT_BEHIND = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information")

# What is kept beside frames: a file of these is never taken for one.
_BESIDE = (
    ".txt",
    ".json",
    ".xml",
    ".csv",
    ".yaml",
    ".yml",
    ".md",
    ".log",
    ".ini",
    ".npy",
    ".npz",
    ".flo",
    ".pcd",
    ".bin",
)

_NUMBER = re.compile(r"\d+")


def visible(folder: Path) -> list[Path]:
    """List what lies in a folder, without hidden files and what operating systems leave behind, by name.

    Raises:
        DataError: If there is no such folder, or it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.png", "._a.png", "Thumbs.db", ".ipynb_checkpoints"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in visible(Path(folder))]
        ['a.png']
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error}") from error
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in _LEFT_BEHIND]


def list_folders(folder: Path) -> list[Path]:
    """List the folders in a folder as :func:`visible` does."""
    return [path for path in visible(folder) if path.is_dir()]


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the files with one of some suffixes, in either case, as :func:`visible` does.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case.

    Raises:
        DataError: If there is no such folder, or one of the files is a link to nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.PNG", "b.jpg", "c.txt"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in list_files(Path(folder), (".png", ".jpg"))]
        ['a.PNG', 'b.jpg']
    """
    files = [path for path in visible(folder) if path.suffix.lower() in suffixes and not path.is_dir()]
    for path in files:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a broken link: it points to {path.readlink()}, which does not exist")
    return files


def list_images(folder: Path, temporal: bool = True) -> list[Path]:
    """List the images of a folder: frames in temporal order, see :func:`in_order`.

    Args:
        folder: The folder.
        temporal: Whether they are the frames of a clip. Images without a time are listed by name.

    Raises:
        DataError: If the folder is missing, two files have the same stem, the order is not clear, or a file is left
            out that looks like a frame.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("frame_10.jpg", "frame_2.png", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in list_images(Path(folder))]
        ['frame_2.png', 'frame_10.jpg']
    """
    files = list_files(folder, IMAGE_SUFFIXES)
    stems = Counter(same_form(path.stem) for path in files)
    if double := [stem for stem, times in stems.items() if times > 1]:
        raise DataError(f"{folder} holds two images named {double[0]!r}; every frame needs a name of its own")
    if lost := _lost_frames(folder, files):
        raise DataError(
            f"{folder}: {_count(len(lost), 'file')} named like frames cannot be read, the first is {lost[0].name}; "
            f"frames are read from {', '.join(IMAGE_SUFFIXES)}: convert or remove them"
        )
    if not temporal:
        return files
    order = in_order([path.stem for path in files], folder)
    by_stem = {path.stem: path for path in files}
    return [by_stem[stem] for stem in order]


def _lost_frames(folder: Path, files: list[Path]) -> list[Path]:
    """Return the files that are not read, but are named as the frames are, and belong to none of them."""
    shapes = {_NUMBER.sub("#", path.stem) for path in files if _NUMBER.search(path.stem)}
    stems = {path.stem for path in files}
    read = set(files)
    others = [path for path in visible(folder) if path not in read and path.stem not in stems]
    others = [path for path in others if path.suffix.lower() not in _BESIDE and not path.is_dir()]
    return [path for path in others if _NUMBER.sub("#", path.stem) in shapes]


def in_order(stems: Iterable[str], folder: Path | str = "") -> list[str]:
    """Bring the names of frames into temporal order: numbers in names compare as numbers.

    Args:
        stems: Names without suffix, all different.
        folder: Where they are, for the message.

    Raises:
        DataError: If the order by name and the order by numbers contradict each other in a way that has no single
            answer: names of different shapes, two names with one number, or numbers that may be decimals.

    Example:
        >>> in_order(["frame_10", "frame_9", "frame_1"])
        ['frame_1', 'frame_9', 'frame_10']
    """
    by_name = sorted(stems)
    numbers = {stem: tuple(int(number) for number in _NUMBER.findall(stem)) for stem in by_name}
    if len({_NUMBER.sub("#", stem) for stem in by_name}) > 1:
        if sorted(by_name, key=_natural) != by_name:
            raise DataError(
                f"{folder}: the order of the frames is not clear: by their names {_first_difference(by_name)}, by the "
                "numbers in them behind it, and the names are of different shapes. Rename them with numbers of one "
                "width, such as 000012"
            )
        return by_name
    if double := [number for number, times in Counter(numbers.values()).items() if times > 1 and number]:
        first, second = [stem for stem in by_name if numbers[stem] == double[0]][:2]
        raise DataError(f"{folder}: the frames {first!r} and {second!r} have the same number; remove one of them")
    by_number = sorted(by_name, key=numbers.__getitem__)
    if by_number != by_name and sorted(by_name, key=_decimals) != by_number:
        raise DataError(
            f"{folder}: the order of the frames is not clear: numbers with a point, as in {by_name[0]!r}, may be "
            "decimals or two numbers. Rename the frames with numbers of one width, such as 000012"
        )
    return by_number


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _natural(stem: str) -> list[tuple[int, int, str]]:
    """Return a key by which numbers compare as numbers, and the text between them as text."""
    parts = re.split(r"(\d+)", stem)
    return [(1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


def _decimals(stem: str) -> list[Decimal]:
    return [Decimal(number) for number in re.findall(r"\d+(?:\.\d+)?", stem)]


def _first_difference(by_name: list[str]) -> str:
    pairs = zip(by_name, by_name[1:], strict=False)
    first, second = next(pair for pair in pairs if _natural(pair[0]) > _natural(pair[1]))
    return f"{first!r} comes before {second!r}"


def gaps(stems: Sequence[str]) -> list[tuple[str, str]]:
    """Find where the numbers of a clip's frames go on by more than their usual step.

    Args:
        stems: Names in temporal order.

    Returns:
        Pairs of neighbouring names; none where fewer than three names have one number each that grows.

    Example:
        >>> gaps(["000000", "000001", "000002", "000007"])
        [('000002', '000007')]
    """
    numbers = [[int(number) for number in _NUMBER.findall(stem)] for stem in stems]
    if len(stems) < 3 or len({len(one) for one in numbers}) > 1 or not numbers[0]:
        return []
    counting = [i for i in range(len(numbers[0])) if len({one[i] for one in numbers}) > 1]
    if len(counting) != 1:
        return []
    steps = [after[counting[0]] - before[counting[0]] for before, after in zip(numbers, numbers[1:], strict=False)]
    [(usual, times)] = Counter(steps).most_common(1)
    if times * 2 <= len(steps):
        return []
    return [(stems[i], stems[i + 1]) for i, step in enumerate(steps) if step > usual]


def frame_numbers(stems: Iterable[str], video: str) -> dict[str, int]:
    """Read from the names of labels which frame of a video each belongs to.

    It is the only number in the name besides the name of the video and, where names differ by their numbers alone,
    besides the numbers that all of these share.

    Args:
        stems: Names without suffix.
        video: Name of the video, with or without suffix.

    Returns:
        Numbers by name, without the names in which there is none, or more than one.

    Example:
        >>> frame_numbers(["000012", "frame_24", "take2_36_mask", "7-8"], "take2")
        {'000012': 12, 'frame_24': 24, 'take2_36_mask': 36}
        >>> frame_numbers(["cam1_v2_008", "cam1_v2_009"], "street")
        {'cam1_v2_008': 8, 'cam1_v2_009': 9}
    """
    base, suffix = Path(video).stem, Path(video).suffix
    # A number at an end of the video's name must not be a part of a longer one.
    before, after = ("(?<![0-9])" if base[0].isdigit() else "", "(?![0-9])" if base[-1].isdigit() else "")
    name = f"{before}{re.escape(base)}(?:{re.escape(suffix)}|{after})"
    alike: dict[str, dict[str, tuple[int, ...]]] = {}
    for stem in stems:
        rest = stem if stem.isdecimal() else re.sub(name, "", stem, count=1)
        numbers = tuple(int(number) for number in _NUMBER.findall(rest))
        alike.setdefault(_NUMBER.sub("#", rest), {})[stem] = numbers
    found: dict[str, int] = {}
    for names in alike.values():
        columns = list(zip(*names.values(), strict=True))
        counting = [i for i, column in enumerate(columns) if len(columns) == 1 or len(set(column)) > 1]
        if len(counting) == 1:
            found |= {stem: numbers[counting[0]] for stem, numbers in names.items()}
    return found


def list_labels(folder: Path) -> dict[str, Path]:
    """List the label files of a folder by their stems, in the form of :func:`same_form`.

    Returns:
        Files by stem; none where there is no such folder.

    Raises:
        DataError: If two files have one stem, or one is a link to nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("0.png", "1.TIF", "2.jpg"):
        ...         Path(folder, name).touch()
        ...     list(list_labels(Path(folder)))
        ['0', '1']
    """
    found: dict[str, Path] = {}
    for path in list_files(folder, LABEL_SUFFIXES) if folder.is_dir() else []:
        stem = same_form(path.stem)
        if stem in found:
            raise DataError(f"{found[stem]} and {path} are labels of one frame; remove one of them")
        found[stem] = path
    return found


def same_form(text: str) -> str:
    r"""Return a name in the composed Unicode form (NFC), by which names compare: macOS writes umlauts decomposed.

    Example:
        >>> same_form("fu\u0308r") == "f\u00fcr"
        True
    """
    return unicodedata.normalize("NFC", text)
