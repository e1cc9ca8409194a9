"""The frames of a data set, found by the names that other programs write."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path, PurePosixPath

from wrp.data.index import ClipIndex, FrameNames, read_list
from wrp.errors import DataError
from wrp.io.listing import IMAGE_SUFFIXES, same_form
from wrp.io.video import VIDEO_SUFFIXES
from wrp.structures import Clip, VideoFrame

# Folders that programs put before the names of images; they say nothing about the clip.
GENERAL = (
    *("annotations", "data", "dataset", "default", "export", "frames", "image", "images", "img", "imgs", "input"),
    *("jpegimages", "labels", "leftimg8bit", "masks", "obj_train_data", "rgb", "test", "testing", "train", "training"),
    *("upload", "uploads", "val", "valid", "validation", "video", "videos"),
)

# How CVAT names the frames of a video; they count from 0.
_OF_VIDEO = re.compile(r"frame[_-]?(\d+)", re.IGNORECASE)


def frame_name(file_name: str) -> str:
    r"""Return the name of a frame from the path of its image in a file.

    Raises:
        DataError: If it leads out of the folder.

    Example:
        >>> frame_name("a/0.jpg"), frame_name("a/0.5"), frame_name("C:\\scenes\\a\\0.PNG")
        ('a/0', 'a/0.5', 'C:/scenes/a/0')
    """
    path = name_path(file_name)
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def name_path(file_name: str) -> PurePosixPath:
    r"""Return the path that a file says of a frame, with slashes; its own name may end as those of images do.

    Raises:
        DataError: If it leads out of the folder.

    Example:
        >>> str(name_path("a\\0.5.png"))
        'a/0.5.png'
    """
    path = PurePosixPath(file_name.replace("\\", "/").lstrip("/"))
    if ".." in path.parts:
        raise DataError(f"the image name {file_name!r} leads out of its folder; expected <clip>/<frame>")
    return path


class WrittenNames:
    """The frames of a data set by the names that other programs write.

    Folders before the clip do not count. A name without a clip fits where only one clip has such a frame. Frames may be
    numbered as CVAT numbers those of a video, ``frame_000005``.

    Args:
        index: The data set.
        clip: The clip of names that name none; None: there must be only one that fits.

    Raises:
        DataError: If there is no such clip.

    Example:
        >>> from wrp.data.index import make_clip
        >>> from wrp.structures import Frame, LabelMap
        >>> clip = make_clip("street", [Frame(f"{i:06d}", Path(f"{i}.png")) for i in range(3)])
        >>> index = ClipIndex(Path("data"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), (clip,))
        >>> names = WrittenNames(index)
        >>> names.find("images/street/000002"), names.find("000002"), names.find("frame_000002")
        ('street/000002', 'street/000002', 'street/000002')
    """

    def __init__(self, index: ClipIndex, clip: str | None = None) -> None:
        self._root = index.root
        self._clips = {same_form(one.name): one for one in index.clips}
        self._names = FrameNames(f"{one.name}/{frame.stem}" for one in index.clips for frame in one.frames)
        if clip is not None and same_form(clip) not in self._clips:
            known = ", ".join(sorted(self._clips)[:8])
            raise DataError(f"{index.root} has no clip {clip!r}; its clips are {known}")
        self._clip = None if clip is None else self._clips[same_form(clip)]
        self._numbers = cache(self._find_numbers)

    def find(self, written: str) -> str:
        """Return the name ``<clip>/<stem>`` of a frame; raise DataError if none fits, or more than one."""
        found = self.fitting(written)
        if not found:
            raise DataError(f"there is no such frame in {self._root}")
        if len(found) > 1:
            raise DataError(f"it may be {found[0]} or {found[1]}; say which clip with --clip NAME")
        return found[0]

    def fitting(self, written: str) -> list[str]:
        """Return the names of all frames that fit; raise DataError if the clip, or the number, is not clear."""
        *folders, stem = same_form(str(name_path(written))).split("/")  # a frame's own name may end in .png
        clips = self._clips_of(folders)
        by_name = [name for clip in clips if (name := self._names.find(f"{clip.name}/{stem}")) is not None]
        return by_name or [name for clip in clips for name in self._by_number(clip, frame_name(stem))]

    def listed(self, path: Path) -> set[str]:
        """Read a list of frames, each in any form that :meth:`find` knows; raise DataError if a line is no frame."""
        found = set()
        for line in read_list(path):
            try:
                found.add(self.find(line))
            except DataError as error:
                raise DataError(f"{path} names {line!r}: {error}") from error
        return found

    def _clips_of(self, folders: list[str]) -> list[Clip]:
        """Return the clips that the folders of a name can mean: the last one that is a clip, or all if none can be."""
        found = (self._clips.get(folder) or self._clips.get(_without_suffix(folder)) for folder in folders)
        named = [clip for clip in found if clip is not None]
        if named:
            return named[-1:]
        if self._clip is not None:
            return [self._clip]
        if strange := [folder for folder in folders if folder.lower() not in GENERAL]:
            raise DataError(
                f"there is no such frame in {self._root}, which has no clip {strange[-1]!r}; if it is of "
                f"{min(self._clips)!r}, say so with --clip {min(self._clips)}"
            )
        return list(self._clips.values())

    def _by_number(self, clip: Clip, stem: str) -> list[str]:
        """Return the frame that has a number in the clip; raise DataError if its place and its name contradict this."""
        match = _OF_VIDEO.fullmatch(stem)
        if match is None or len(match[1]) > 18:
            return []
        number = int(match[1])
        at_place = [f"{clip.name}/{frame.stem}" for frame in clip.frames[number : number + 1]]
        if clip.frames and isinstance(clip.frames[0].image, VideoFrame):
            return at_place
        numbers = self._numbers(clip.name)
        by_name = numbers.get(number, [])
        if not numbers or by_name == at_place:
            return at_place
        if not at_place and len(by_name) == 1:
            return by_name
        if at_place:
            raise DataError(
                f"by the numbers in the names, frame {number} of {clip.name} is {' or '.join(by_name) or 'missing'}; "
                f"counted from 0, it is {at_place[0]}; write {clip.name}/<frame> into the file"
            )
        return []

    def _find_numbers(self, clip: str) -> dict[int, list[str]]:
        """Return the frames of a clip by the last number in their names."""
        found: dict[int, list[str]] = {}
        for frame in self._clips[same_form(clip)].frames:
            if numbers := re.findall(r"\d+", frame.stem):
                found.setdefault(int(numbers[-1][:18]), []).append(f"{clip}/{frame.stem}")
        return found


def _without_suffix(folder: str) -> str:
    """Return the name of a clip for that of its video."""
    return Path(folder).stem if Path(folder).suffix.lower() in VIDEO_SUFFIXES else folder
