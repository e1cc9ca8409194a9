"""Lay out a folder for a video that has no labels yet, as `wrp init` does."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from wrp.data.index import ClipIndex, make_clip, narrow
from wrp.data.layouts.folder import frames_of
from wrp.data.layouts.registry import find_folder
from wrp.errors import WrpError, check_choice, listed
from wrp.io.label_map import numbered_classes, read_label_map
from wrp.io.listing import list_images, same_form, visible
from wrp.io.opening import read_text
from wrp.io.pixels import image_array
from wrp.io.video import is_video
from wrp.io.writing import follow_links, make_folder, new_folder, replacing, write_image, write_text
from wrp.options import PICKS, SelectArgs
from wrp.structures import Frame

logger = logging.getLogger("wrp")

TO_LABEL = "to-label"
"""Folder of the pictures that are to be labelled, in a folder that :func:`lay_out` makes."""

# Not filled in, it is refused with an example when it is read.
TO_FILL_IN = """\
# The classes of the labels: the id is the value of a pixel in a label. Fill in yours, and remove the "#" before them.
# Delete this file if your labels are indexed PNGs, whose palette has the colours of the classes.
ignore: 255          # pixels of this value have no class
classes:
#  - {id: 0, name: road, color: [128, 64, 128]}
#  - {id: 1, name: car, color: [0, 0, 142]}
"""


def lay_out(
    folder: Path,
    video: Path,
    count: int = 5,
    by: str = "even",
    frames: str | None = None,
    classes: Sequence[str] = (),
    copy: bool = False,
) -> list[Path]:
    """Lay out a folder for a video or a folder of frames, and write the pictures of the frames to label.

    ``folder`` gets ``frames/<clip>``, a link to the video; ``to-label/<clip>/<frame>.png``, the pictures;
    ``labels/<clip>/``, where their labels are expected under the same names; and a ``classes.yaml`` to fill in, unless
    there is one.

    Args:
        folder: A new or empty folder, or one to which another clip is added.
        video: The video or the folder of frames.
        count: Number of frames to pick.
        by: How they are picked: ``even`` or ``diverse``, see :func:`~wrp.data.keyframes.pick_keyframes`.
        frames: Frames to pick from, START:STOP:STEP; None: all.
        classes: Names of the classes, as in the list that is there, if any; empty: they are to be filled in.
        copy: Whether the video is copied instead of linked to.

    Returns:
        The pictures.

    Raises:
        WrpError: If the video cannot be read, an argument is out of range, or the folder holds the clip or other files.
    """
    if count < 1:
        raise WrpError(f"the number of frames to label, -n, must be at least 1, got {count}")
    check_choice("value of --by", by, PICKS)
    source = find_folder(video, or_file=True).resolve()
    if source.is_dir() and not list_images(source):
        raise WrpError(f"{video} holds no images; expected a video, or the folder of the frames of one clip")
    if source.is_file() and not is_video(source):
        raise WrpError(f"{video} is no video that can be read")
    name = source.stem if source.is_file() else source.name
    clip = make_clip(name, frames_of(name, source, None, []))
    [clip] = narrow(ClipIndex(source, "folder", numbered_classes(1), (clip,)), SelectArgs(frames=frames)).clips
    folder = _claim(follow_links(folder), name, source)
    listing = _listing(folder / "classes.yaml", classes)

    from wrp.data.keyframes import look_at, pick_keyframes  # here, as it brings torch, which takes seconds

    looks = look_at(clip.frames)
    picked = [clip.frames[i] for i in pick_keyframes(looks, count, by)]
    if looks.cuts:
        firsts = [clip.frames[cut + 1].stem for cut in looks.cuts]
        few = f"; the {len(firsts) + 1 - count} shortest get no frame, so nothing will label them: use a greater -n"
        logger.info(
            "%s has %d scenes, new ones begin at %s%s",
            name,
            len(firsts) + 1,
            listed(firsts),
            few if len(firsts) + 1 > count else "",
        )
    pictures = [_write(folder / TO_LABEL / name, frame) for frame in picked]
    make_folder(folder / "labels" / name)
    if listing is not None:
        write_text(folder / "classes.yaml", listing)
    _bring(source, make_folder(folder / "frames") / (source.name if source.is_file() else name), copy)
    return pictures


def _claim(folder: Path, name: str, source: Path) -> Path:
    """Create a folder, or refuse one that is not of the package's layout or has such a clip."""
    if folder.resolve() in (source, *source.parents) and source.is_dir():
        raise WrpError(f"{folder} is or holds {source}: choose another folder")
    if folder.is_dir() and visible(folder) and not (folder / "frames").is_dir() and not (folder / TO_LABEL).is_dir():
        raise WrpError(f"{folder} holds other files: choose a new folder, or an empty one")
    clips = visible(folder / "frames") if (folder / "frames").is_dir() else []
    if there := [path for path in clips if same_form(path.stem if path.is_file() else path.name) == same_form(name)]:
        raise WrpError(
            f"{folder} has a clip {name} already ({there[0]}): label the pictures in {folder / TO_LABEL / name}; "
            "`wrp suggest` finds further frames, once `wrp autolabel` has run"
        )
    return make_folder(folder)


def _write(folder: Path, frame: Frame) -> Path:
    path = make_folder(folder) / f"{frame.stem}.png"
    write_image(path, Image.fromarray(image_array(frame.image)))
    return path


def _listing(path: Path, names: Sequence[str]) -> str | None:
    """Return the classes.yaml to write; None if that which is there stays, and refuse others than it lists."""
    there = read_text(path) if path.exists() else None
    if there not in (None, TO_FILL_IN):
        if names and (known := read_label_map(path).names) != tuple(names):
            raise WrpError(f"{path} lists the classes {', '.join(known)}, not {', '.join(names)}: leave out --classes")
        return None
    if not names:
        return TO_FILL_IN
    classes = replace(numbered_classes(len(names)), names=tuple(names))
    rows = zip(classes.ids, classes.names, classes.colors, strict=True)
    lines = [f"  - {{id: {id_}, name: {json.dumps(name)}, color: {list(color)}}}\n" for id_, name, color in rows]
    return "ignore: 255          # pixels of this value have no class\nclasses:\n" + "".join(lines)


def _bring(source: Path, place: Path, copy: bool) -> None:
    """Make a link to a video or a folder, or copy it as a whole."""
    if not copy:
        try:
            os.symlink(source, place)
        except OSError as error:  # FAT and some network file systems have no links, Windows asks for a right
            raise WrpError(f"{place} cannot be made a link to {source} ({error.strerror}): use --copy") from error
    elif source.is_dir():
        with new_folder(place) as copied:
            shutil.copytree(source, copied, dirs_exist_ok=True)
    else:
        with replacing(place) as copied:
            shutil.copyfile(source, copied)
