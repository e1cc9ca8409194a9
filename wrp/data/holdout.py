"""Which labelled frames are for training and which for validation: never the same ones, unless that is asked for."""

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
"""A frame with the name of its clip and its index there."""


@dataclass(frozen=True)
class Division:
    """A data set divided.

    Attributes:
        train: The clips, whose keyframes are for training.
        val: The clips, whose held-out frames are for validation; their keyframes may be used as well.
    """

    train: ClipIndex
    val: ClipIndex


def divide(index: ClipIndex, val: ValArgs, open_split: Callable[[str], ClipIndex]) -> Division:
    """Divide the labelled frames of a data set.

    Args:
        index: The data set; held-out frames are not for training.
        val: Which ones are for validation.
        open_split: Opens another split.

    Raises:
        DataError: If what is asked for is not there.
    """
    if val.split is not None:
        return Division(index, replace(open_split(val.split), images=()).held_out_throughout())
    if val.clips is not None:
        names = {clip.name for clip in index.clips}
        if missing := [name for name in val.clips if name not in names]:
            raise DataError(
                f"val.clips: {index.root} has no clip {missing[0]!r}; its clips are {', '.join(sorted(names))}"
            )
        mine = tuple(clip for clip in index.clips if clip.name not in val.clips)
        theirs = tuple(clip for clip in index.clips if clip.name in val.clips)
        return Division(replace(index, clips=mine), replace(index, clips=theirs, images=()).held_out_throughout())
    if val.keyframes is not None:
        return _without(index, listed_frames(index, Path(val.keyframes)))
    if val.ratio is not None:
        return _without(index, _drawn(index, val.ratio, val.seed))
    if val.overlap and not any(clip.held_out for clip in index.clips):
        return Division(index, index.held_out_throughout())
    return Division(index, index)


def _without(index: ClipIndex, chosen: set[tuple[str, str]]) -> Division:
    """Training without some frames, clip and name of each, and validation on them."""
    train, val = [], []
    for clip in index.clips:
        mine = {stem for name, stem in chosen if name == clip.name}
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
    """The keyframes of all clips, or the held-out frames."""
    return [(clip.name, i, clip.frames[i]) for clip in clips for i in (clip.held_out if held_out else clip.keyframes)]


def check_disjoint(train: Iterable[Frame], val: Sequence[Frame], remedy: str) -> None:
    """Raise DataError where labels that are validated on are trained on as well."""
    trained = {frame.label.resolve() for frame in train if frame.label is not None}
    both = [frame.label for frame in val if frame.label is not None and frame.label.resolve() in trained]
    if both:
        raise DataError(
            f"{len(both)} of the {len(val)} validation labels are trained on as well, the first is {both[0]}: {remedy}"
        )
