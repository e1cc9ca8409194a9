"""Label the images and videos of a folder with a trained network, as `wrp predict-images` does."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from wrp.data.found import Named
from wrp.errors import DataError, WrpError
from wrp.io.checkpoints import classes_as_plain, network_hash
from wrp.io.images import read_image
from wrp.io.label_map import write_label_map
from wrp.io.locking import locked
from wrp.io.opening import read_json
from wrp.io.outputs import PREDICTIONS, claim
from wrp.io.progress import progress
from wrp.io.versions import versions
from wrp.io.writing import (
    encode_image,
    encode_label,
    remove_leftovers,
    sync_folder,
    write_content,
    write_json,
)
from wrp.segmentation.labeler import Labeler, load
from wrp.structures import LabelMap, VideoFrame

logger = logging.getLogger("wrp")

RECORD = "predictions.json"
"""File of an output folder that records network, classes and images; labels of two networks are never mixed."""

# Threads that write, and images whose files wait for them at most.
THREADS = 2
WAITING = 4


def predict_images(
    network: Path,
    images: Sequence[Named],
    out: Path,
    classes: LabelMap | None = None,
    device: str | None = None,
    skip: bool = False,
) -> dict[str, str]:
    """Label images and frames of videos; those that are labelled already are left out.

    ``out`` gets ``labels/<name>.png``, indexed PNGs of ids in the colours of the classes; ``confidence/<name>.png``,
    8-bit grey, 255 is certain; ``classes.yaml``; and ``predictions.json``.

    Args:
        network: Checkpoint of a segmentation network, see :func:`~wrp.io.networks.network_in`.
        images: The images with their names, see :func:`~wrp.data.found.find_images`.
        out: Folder to write to, which :func:`~wrp.io.outputs.check_output` has returned: empty, or of an earlier call
            with the same network. Images that have a label there are not labelled again, unless they have changed
            since.
        classes: The classes, for a checkpoint that does not hold them.
        device: Where images are labelled; None: on an accelerator if there is one.
        skip: Whether to leave out images that cannot be read, with a warning, instead of raising.

    Returns:
        What is wrong with each image that was left out, by name.

    Raises:
        WrpError: If the network cannot be used, an image cannot be read, or the folder holds labels by another network,
            or of other images of these names.
    """
    labeler = load(network, classes=classes, device=device)
    claim(out, PREDICTIONS)
    with locked(out):
        remove_leftovers(out)
        _record(out, network, labeler.label_map, images)
        # Labels are written last: where they are, the other file is, too.
        left = [(name, image) for name, image in images if not _path(out, "labels", name).is_file()]
        if len(left) < len(images):
            done, many = len(images) - len(left), "images are" if len(images) > 1 else "image is"
            logger.info("%d of %d %s labelled already", done, len(images), many)
        return _label(labeler, left, out, skip)


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
