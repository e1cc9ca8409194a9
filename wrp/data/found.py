"""Images and videos in any folder, and below it; loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from wrp.errors import DataError
from wrp.io.listing import IMAGE_SUFFIXES, list_folders, list_images, same_form, visible
from wrp.io.video import is_video, open_video
from wrp.structures import VideoFrame

Named = tuple[str, Path | VideoFrame]
"""An image, and the path of its files in an output folder, without suffix."""


def find_images(source: Path) -> list[Named]:
    """Find the images and the frames of the videos in a folder, and in the folders below it.

    Args:
        source: The folder, or a single image or video.

    Returns:
        Name and image, in the order of the names; frames of a video in temporal order.

    Raises:
        DataError: If there is none, or two have one name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "park").mkdir()
        ...     for name in ("b.jpg", "park/a.png", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [name for name, _ in find_images(Path(folder))]
        ['b', 'park/a']
    """
    if source.is_dir():
        found = list(_of_folder(source, ""))
    elif source.is_file():
        found = list(_of_file(source, ""))
    else:
        raise DataError(f"there is no file or folder {source}")
    if not found:
        raise DataError(f"{source} holds no image and no video; images are {', '.join(IMAGE_SUFFIXES)}")
    names = Counter(same_form(name) for name, _ in found)
    if double := [name for name, times in names.items() if times > 1]:
        raise DataError(f"{source} holds two images whose labels would be labels/{double[0]}.png; rename one of them")
    return found


def _of_folder(folder: Path, prefix: str) -> Iterator[Named]:
    images = list_images(folder, temporal=False)
    for path in images:
        yield f"{prefix}{path.stem}", path
    read = set(images)
    for path in visible(folder):
        if path not in read and not path.is_dir() and is_video(path):
            yield from _of_file(path, prefix)
    for path in list_folders(folder):
        yield from _of_folder(path, f"{prefix}{path.name}/")


def _of_file(path: Path, prefix: str) -> Iterator[Named]:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield f"{prefix}{path.stem}", path
        return
    for number in range(len(open_video(path))):
        yield f"{prefix}{path.stem}/{number:06d}", VideoFrame(path, number)
