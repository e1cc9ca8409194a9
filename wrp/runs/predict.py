"""Label the images and videos of a folder with a trained network, as `wrp predict-images` does."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from wrp.errors import DataError, WrpError
from wrp.io.checkpoints import classes_as_plain, network_hash
from wrp.io.images import read_image
from wrp.io.label_map import write_label_map
from wrp.io.listing import IMAGE_SUFFIXES, list_folders, list_images, same_form, visible
from wrp.io.locking import locked
from wrp.io.opening import read_json
from wrp.io.outputs import PREDICTIONS, claim
from wrp.io.progress import progress
from wrp.io.versions import versions
from wrp.io.video import is_video, open_video
from wrp.io.writing import (
    encode_image,
    encode_label,
    follow_links,
    remove_leftovers,
    sync_folder,
    write_content,
    write_json,
)
from wrp.segmentation.labeler import Labeler, load, network_in
from wrp.structures import LabelMap, VideoFrame

logger = logging.getLogger("wrp")

RECORD = "predictions.json"
"""File of an output folder that records network, classes and images; labels of two networks are never mixed."""

# Threads that write, and images whose files wait for them at most.
THREADS = 2
WAITING = 4

Named = tuple[str, Path | VideoFrame]
"""An image, and the path of its files in an output folder, without suffix."""


def predict_images(
    checkpoint: Path,
    source: Path,
    out: Path,
    classes: Path | None = None,
    device: str | None = None,
    skip: bool = False,
) -> dict[str, str]:
    """Label every image and every frame of every video in a folder; images that are labelled already are left out.

    ``out`` gets ``labels/<name>.png``, indexed PNGs of ids in the colours of the classes; ``confidence/<name>.png``,
    8-bit grey, 255 is certain; ``classes.yaml``; and ``predictions.json``. A name is the path of the image below
    ``source`` without its suffix; of a frame of a video, that of the video and the frame's number, from 0.

    Args:
        checkpoint: Checkpoint of a segmentation network, or the folder of a run, see :func:`wrp.load`.
        source: Folder of images and videos, also in folders below it; or a single image or video.
        out: Folder to write to: empty, or of an earlier call with the same network. Images that have a label there are
            not labelled again, unless they have changed since.
        classes: A classes.yaml, for a checkpoint that does not hold the classes.
        device: Where images are labelled; None: on an accelerator if there is one.
        skip: Whether to leave out images that cannot be read, with a warning, instead of raising.

    Returns:
        What is wrong with each image that was left out, by name.

    Raises:
        WrpError: If the network cannot be used, there is no image, two have one name, an image cannot be read, or the
            folder holds labels by another network, or of other images of these names.
    """
    images = find_images(source)
    network = network_in(checkpoint)
    labeler = load(network, classes=classes, device=device)
    out = claim(follow_links(out), PREDICTIONS, {source.resolve()})
    with locked(out):
        remove_leftovers(out)
        _record(out, network, labeler.label_map, images)
        # Labels are written last: where they are, the other file is, too.
        left = [(name, image) for name, image in images if not _path(out, "labels", name).is_file()]
        if len(left) < len(images):
            done, many = len(images) - len(left), "images are" if len(images) > 1 else "image is"
            logger.info("%d of %d %s labelled already", done, len(images), many)
        return _label(labeler, left, out, skip)


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


def _path(out: Path, kind: str, name: str) -> Path:
    return out / kind / f"{name}.png"


def _record(out: Path, network: Path, label_map: LabelMap, images: Sequence[Named]) -> None:
    """Record what labels are made with and of, and delete those of images that have changed since.

    Raises:
        WrpError: If the folder holds labels by something else, or of other images of the same names.
    """
    mine = {"network": network_hash(str(network)), "classes": classes_as_plain(label_map)}
    path, found = out / RECORD, dict[str, Any]()
    if path.is_file():
        found = read_json(path, "it records the network of the labels beside it: choose another --out")
        for key, what in (("network", "another network"), ("classes", "other classes")):
            if found.get(key) != mine[key]:
                raise WrpError(f"{out} holds labels by {what}; choose another --out, or delete it to start again")
    kept: Any = found.get("images")
    files: dict[str, Any] = kept if isinstance(kept, dict) else {}
    now = {_file_of(name, image): image for name, image in images}
    states = {file: _state(image) for file, image in now.items()}
    same = {file for file, state in states.items() if _is_list(files.get(file)) and files[file][1:] == state[1:]}
    for file, [place, *_] in states.items():
        if file not in same and _is_list(files.get(file)) and files[file][0] != place:
            raise WrpError(
                f"{out} holds the label of {files[file][0]}, and {place} is another image of that name; choose another "
                "--out for it"
            )
    for name, image in images:
        if _file_of(name, image) not in same:
            _path(out, "labels", name).unlink(missing_ok=True)
    # Who made the first labels is kept.
    made = {"checkpoint": str(network), "versions": versions()} | found
    write_json(path, made | mine | {"images": files | states})
    write_label_map(label_map, out / "classes.yaml")


def _is_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _file_of(name: str, image: Path | VideoFrame) -> str:
    """Return the name under which the file of an image is recorded; all frames of a video have one."""
    return f"{name.rpartition('/')[0]}/" if isinstance(image, VideoFrame) else name


def _state(image: Path | VideoFrame) -> list[Any]:
    """Return path, size and time of change of the file of an image."""
    path = (image.path if isinstance(image, VideoFrame) else image).resolve()
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _label(labeler: Labeler, images: Sequence[Named], out: Path, skip: bool) -> dict[str, str]:
    """Label images and write their files, in threads, while the next ones are labelled."""
    broken: dict[str, str] = {}
    names: deque[str] = deque()  # of the images that are read, but not yet labelled

    def read() -> Iterator[Tensor]:
        for name, image in images:
            try:
                pixels = read_image(image)
            except DataError as error:
                if not skip:
                    raise
                broken[name] = str(error)
                logger.warning("Skipping %s", error)
                continue
            names.append(name)
            yield pixels

    folders, waiting = set[Path](), deque[Future[None]]()
    with ThreadPoolExecutor(THREADS, "wrp-write") as pool:
        labelled = progress(labeler.stream(read()), desc="Labelling", unit="image", total=len(images))
        for labels, confidence in labelled:
            if len(waiting) >= WAITING:
                waiting.popleft().result()
            name = names.popleft()
            folders |= {_path(out, kind, name).parent for kind in ("labels", "confidence")}
            waiting.append(pool.submit(_write, out, name, labels, confidence, labeler.label_map))
        for written in waiting:
            written.result()
    for folder in folders:
        sync_folder(folder)
    return broken


def _write(out: Path, name: str, labels: Tensor, confidence: Tensor, label_map: LabelMap) -> None:
    grey = Image.fromarray((confidence * 255).round().byte().numpy())
    write_content(_path(out, "confidence", name), encode_image(grey))
    write_content(_path(out, "labels", name), encode_label(labels.numpy(), label_map))
