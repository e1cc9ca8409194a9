"""Division of the labelled frames into training and validation, which share none unless overlap is allowed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wrp.data.index import ClipIndex, keep_labels, listed_frames
from wrp.errors import DataError
from wrp.options import ValArgs
from wrp.structures import Clip, Frame

logger = logging.getLogger("wrp")

Labelled = tuple[str, int, Frame]
"""Name of the clip, index of the frame in the clip, and the frame."""


@dataclass(frozen=True)
class Division:
    """A data set divided into training and validation.

    Attributes:
        train: The clips whose keyframes are for training.
        val: The clips whose held-out frames are for validation; their keyframes may be used as well.

    Example:
        >>> from wrp.structures import LabelMap
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), ())
        >>> Division(train=index, val=index.held_out_throughout()).val.clips
        ()
    """

    train: ClipIndex
    val: ClipIndex


def divide(index: ClipIndex, val: ValArgs, open_split: Callable[[str], ClipIndex]) -> Division:
    """Divide the labelled frames of a data set.

    Args:
        index: The data set; its held-out frames are not for training.
        val: Which labelled frames are for validation.
        open_split: Opens another split of the data set by its name.

    Returns:
        The clips for training and those for validation.

    Raises:
        DataError: If ``val`` names a split, clip or frame that is not there, or a ratio of fewer than two labelled
            frames.

    Example:
        >>> from wrp.data.index import make_clip
        >>> from wrp.structures import LabelMap
        >>> clips = [make_clip(name, [Frame("0", Path("0.png"), Path(name, "0.png"))]) for name in "ab"]
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), tuple(clips))
        >>> division = divide(index, ValArgs(clips="b"), open_split=lambda name: index)
        >>> numbered(division.train.clips)[0][:2], numbered(division.val.clips, held_out=True)[0][:2]
        (('a', 0), ('b', 0))
    """
    if val.split is not None:
        return Division(index, replace(open_split(val.split), images=()).held_out_throughout())
    if val.clips is not None:
        names = {clip.name for clip in index.clips}
        if missing := [name for name in val.clips if name not in names]:
            raise DataError(
                f"val.clips: {index.root} has no clip {missing[0]!r}; its clips are {', '.join(sorted(names))}"
            )
        chosen = set(val.clips)
        mine = tuple(clip for clip in index.clips if clip.name not in chosen)
        theirs = tuple(clip for clip in index.clips if clip.name in chosen)
        return Division(replace(index, clips=mine), replace(index, clips=theirs, images=()).held_out_throughout())
    if val.keyframes is not None:
        return _without(index, listed_frames(index, Path(val.keyframes)))
    if val.ratio is not None:
        return _without(index, _drawn(index, val.ratio, val.seed))
    if val.overlap and not any(clip.held_out for clip in index.clips):
        return Division(index, index.held_out_throughout())
    return Division(index, index)


def _without(index: ClipIndex, chosen: set[tuple[str, str]]) -> Division:
    """Make a division that trains without the chosen frames, clip and name of each, and validates on them."""
    train, val = [], []
    stems: dict[str, set[str]] = {}
    for name, stem in chosen:
        stems.setdefault(name, set()).add(stem)
    for clip in index.clips:
        mine = stems.get(clip.name, set())
        kept = {clip.frames[i].stem for i in clip.keyframes} - mine
        train.append(keep_labels(clip, kept))
        held_out = tuple(i for i, frame in enumerate(clip.frames) if frame.stem in mine)
        val.append(replace(train[-1], held_out=held_out))
    return Division(replace(index, clips=tuple(train)), replace(index, clips=tuple(val)))


def _drawn(index: ClipIndex, ratio: float, seed: int) -> set[tuple[str, str]]:
    labelled = [(clip.name, clip.frames[i].stem) for clip in index.clips for i in clip.keyframes]
    if len(labelled) < 2:
        raise DataError(f"val.ratio={ratio}: {index.root} has {len(labelled)} labelled frames, expected at least two")
    count = min(max(1, round(ratio * len(labelled))), len(labelled) - 1)
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = sorted(order[:count])
    logger.info("Validating on %d of %d labelled frames, drawn with seed %d", count, len(labelled), seed)
    return {labelled[i] for i in chosen}


def numbered(clips: Sequence[Clip], held_out: bool = False) -> list[Labelled]:
    """Return the keyframes of all clips, or their held-out frames, each with its clip's name and its index.

    Example:
        >>> clip = Clip("a", tuple(Frame(str(i), Path(f"{i}.png")) for i in range(3)), keyframes=(0,), held_out=(2,))
        >>> [(name, index) for name, index, _ in numbered([clip], held_out=True)]
        [('a', 2)]
    """
    return [(clip.name, i, clip.frames[i]) for clip in clips for i in (clip.held_out if held_out else clip.keyframes)]


def check_disjoint(train: Iterable[Frame], val: Sequence[Frame], remedy: str) -> None:
    """Raise DataError if a label is both trained and validated on.

    Args:
        train: The frames for training.
        val: The frames for validation.
        remedy: What the user can do about it, the end of the message.

    Example:
        >>> frame = Frame("0", Path("0.jpg"), Path("0.png"))
        >>> check_disjoint([], [frame], "hold some back")
        >>> check_disjoint([frame], [frame], "hold some back")
        Traceback (most recent call last):
            ...
        wrp.errors.DataError: 1 of the 1 validation labels are trained on as well, the first is 0.png: hold some back
    """
    trained = {frame.label.resolve() for frame in train if frame.label is not None}
    both = [frame.label for frame in val if frame.label is not None and frame.label.resolve() in trained]
    if both:
        raise DataError(
            f"{len(both)} of the {len(val)} validation labels are trained on as well, the first is {both[0]}: {remedy}"
        )
