"""What a run looks at before torch is imported, which takes seconds: where its clips are, and their first labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from wrp.data.index import ClipIndex, narrow
from wrp.data.layouts.registry import find_folder, open_index
from wrp.io.networks import require_network
from wrp.io.pixels import fitting_label_array, read_size
from wrp.runs.config import Settings
from wrp.structures import Frame, LabelMap, VideoFrame

# Labels that are read: a mistake in the classes or in the size is in all of them.
FIRST = 4

# Environment variables of processes that a launcher has started: there, the first process alone looks at the data.
STARTED = ("LOCAL_RANK", "RANK", "SLURM_PROCID")


def open_clips(settings: Settings, classes: LabelMap | None = None) -> ClipIndex:
    """Find the clips of a run, and their labels.

    Args:
        settings: Settings of the run.
        classes: The classes of clips without labels and a classes.yaml; None: they are refused.

    Raises:
        WrpError: If a folder is missing, or does not have the layout.
    """
    skip, labels = settings.run.on_error == "skip", settings.select.labels
    return open_index(settings.root, settings.layout, settings.split, classes=classes, labels=labels, skip=skip)


def open_early(settings: Settings) -> ClipIndex | None:
    """Find the clips of a run and read their first labels, if that needs no network and is the task of this process.

    Args:
        settings: Settings of the run.

    Returns:
        The clips, for :func:`wrp.runs.autolabel.autolabel`; None: nothing was looked at.

    Raises:
        WrpError: As :func:`open_clips`, or if a given network is not there, or such a label cannot be used; all other
            ones are read by the run itself.
    """
    if any(name in os.environ for name in STARTED):
        return None
    for network in (settings.teacher, settings.refiner):
        if network is not None:
            require_network(Path(network))
    if settings.teacher is not None:  # it may hold the classes, and torch reads it
        find_folder(settings.root, or_file=True)
        return None
    index = open_clips(settings)
    if settings.run.on_error == "stop" and settings.run.shard is None:  # else it is not known which labels are read
        for frame, size in islice(_labelled(narrow(index, settings.select)), FIRST):
            fitting_label_array(frame, index.label_map, size)
    return index


def _labelled(index: ClipIndex) -> Iterator[tuple[Frame, tuple[int, int]]]:
    """Yield the labelled frames of the clips with their sizes, as far as the headers tell them."""
    for clip in index.clips:
        first = clip.frames[0].image
        for frame in clip.frames:
            if frame.label is not None:
                # Of a video, other frames would have to be decoded.
                yield frame, read_size(first if isinstance(first, VideoFrame) else frame.image)
