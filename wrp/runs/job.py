"""What all stages of an autolabel run share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wrp.callbacks.writer import LabelWriter
from wrp.data.index import ClipIndex
from wrp.errors import DataError
from wrp.flow.cache import FlowCache
from wrp.io.manifest import note_broken
from wrp.runs.config import Settings
from wrp.runs.processes import Processes
from wrp.runs.record import check_labels, hash_labels, known_labels
from wrp.structures import Clip, ClipBatch

logger = logging.getLogger("wrp")


@dataclass(frozen=True)
class Job:
    """An autolabel run, as its stages see it.

    Attributes:
        settings: Its settings.
        index: The clips.
        flow: Its optical flow.
        processes: The processes that carry it out.

    Example:
        >>> from wrp.flow.dis import DIS
        >>> from wrp.structures import LabelMap
        >>> index = ClipIndex(Path("street"), "folder", LabelMap((0,), ("road",), ((128, 64, 128),)), ())
        >>> Job(Settings("street", "runs/street"), index, FlowCache(DIS()), Processes()).out.name
        'street'
    """

    settings: Settings
    index: ClipIndex
    flow: FlowCache
    processes: Processes

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return Path(self.settings.out)

    @cached_property
    def _known(self) -> dict[str, str]:
        return known_labels(self.out)

    @cached_property
    def _clips(self) -> dict[str, Clip]:
        return {clip.name: clip for clip in self.index.clips}

    def check_labels(self, batch: ClipBatch | None = None) -> None:
        """Refuse labels that are not what they were when the run began, so that nothing is kept that they have made.

        Args:
            batch: Those of the keyframes of a stretch; None: all that the run learns from.

        Raises:
            WrpError: If one of them has changed.
        """
        if batch is None:
            frames = [*self.index.training_frames]
        else:
            frames = [self._clips[batch.clip].frames[index] for index in (*batch.labels, *batch.held_out)]
        check_labels(self._known, hash_labels(frames))

    def skip(self, clip: str, error: DataError) -> None:
        """Note a clip of which a frame cannot be read, and raise the error unless such clips are skipped."""
        note_broken(self.out, clip, str(error))
        if self.settings.run.on_error != "skip":
            raise error
        logger.warning("Skipping clip %s: %s", clip, error)


class JobWriter(LabelWriter):
    """Write labels, and record those of an interval only if the labels of its keyframes are those of the run's start.

    Args:
        out: Folder to write to.
        check: Raises an error if they are not, see :meth:`Job.check_labels`; None: they are not checked.
        threads: Number of threads that write.

    Example:
        >>> JobWriter("runs/street").kind
        'labels'
    """

    def __init__(self, out: str, check: Callable[[ClipBatch], None] | None = None, threads: int = 2) -> None:
        super().__init__(out, threads)
        self.check = check

    def before_recording(self, batch: Any) -> None:
        """Check the labels of the interval's keyframes."""
        if self.check is not None:
            self.check(batch)
