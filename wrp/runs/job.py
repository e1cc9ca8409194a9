"""What all stages of an autolabel run share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from wrp.data.index import ClipIndex
from wrp.errors import DataError
from wrp.flow.cache import FlowCache
from wrp.io.manifest import note_broken
from wrp.runs.config import Settings
from wrp.runs.processes import Processes

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

    def skip(self, clip: str, error: DataError) -> None:
        """Note a clip of which a frame cannot be read, and raise the error unless such clips are skipped."""
        note_broken(self.out, clip, str(error))
        if self.settings.run.on_error != "skip":
            raise error
        logger.warning("Skipping clip %s: %s", clip, error)
