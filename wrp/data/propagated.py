"""Propagated labels as something to train on: what a run of this package has written, beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from wrp.data.index import read_list
from wrp.errors import DataError
from wrp.io.manifest import Entry, read_manifest
from wrp.structures import Clip, Frame

# In the folder of a run: lines <clip>/<frame>
RELIABLE = "reliable.txt"


@dataclass(frozen=True)
class PropagatedLabels:
    """Which propagated labels to train on, and how much.

    Attributes:
        folder: Where a run wrote them: ``labels/``, ``confidence/`` and ``manifest.jsonl``.
        ratio: Ratio of the training crops that come from them, in (0, 1]; ground truth gives the others.
        min_confidence: Pixels that are less confident do not count.
        weighted: Whether the other pixels count by their confidence, or all the same.
        max_distance: Frames farther from their nearest keyframe are left out; None: none.
        offsets: Frames at these distances behind (or, negative, before) their nearest keyframe only; None: all.
        truth_last: The last so many epochs see ground truth alone (Zhu et al., CVPR 2019).
        reliable_first: The first so many epochs see only those of these frames that ``reliable.txt`` in the folder
            lists, lines ``<clip>/<frame>``, beside the truth (after ST++).
        apart: Serve ground truth and these labels as two batches, ``labelled`` and ``unlabelled``, for a module that
            keeps them apart, such as :class:`~wrp.selftraining.three_stage.ThreeStageModule`.
        weights: Where the confidence of each pixel is read from, a folder below ``folder``: ``confidence``, or
            ``rectified``, which `wrp rectify` writes.
    """

    folder: str
    ratio: float = 0.5
    min_confidence: float = 0.0
    weighted: bool = True
    max_distance: int | None = None
    offsets: list[int] | None = None
    truth_last: int = 0
    reliable_first: int = 0
    apart: bool = False
    weights: str = "confidence"

    def __post_init__(self) -> None:
        """Refuse ratios and thresholds that are none."""
        if not 0 < self.ratio <= 1:
            raise DataError(f"propagated.ratio must be in (0, 1], got {self.ratio}")
        if not 0 <= self.min_confidence <= 1:
            raise DataError(f"propagated.min_confidence must be in 0 … 1, got {self.min_confidence}")
        for name in ("truth_last", "reliable_first"):
            if getattr(self, name) < 0:
                raise DataError(f"propagated.{name} must be at least 0, got {getattr(self, name)}")
        if self.apart and (self.truth_last or self.reliable_first or self.ratio == 1):
            raise DataError("propagated.apart has no use for truth_last, reliable_first, or a ratio of 1")

    def frames(self, clips: Sequence[Clip]) -> list[tuple[str, int, Frame]]:
        """The frames of these clips with their propagated labels, each with its clip and index; keyframes are left out.

        Raises:
            DataError: If the folder holds no manifest, or nothing of these clips that is asked for.
        """
        folder = Path(self.folder)
        written = {(entry.clip, entry.frame): entry for entry in read_manifest(folder)}
        found = []
        for clip in clips:
            for index, frame in enumerate(clip.frames):
                entry = written.get((clip.name, frame.stem))
                if entry is not None and self._wants(entry):
                    label = Path(entry.label)
                    confidence = folder / self.weights / label.relative_to("labels")
                    found.append((clip.name, index, Frame(frame.stem, frame.image, folder / label, confidence)))
        if not found:
            raise DataError(
                f"{folder} holds no propagated labels of {', '.join(clip.name for clip in clips)} within the offsets "
                "and distances asked for"
            )
        return found

    def split(self, frames: list[tuple[str, int, Frame]]) -> tuple[list[tuple[str, int, Frame]], ...]:
        """The frames that come first and the others; with ``reliable_first`` the former are those of the list.

        Raises:
            DataError: If the list is missing or names none of the frames.
        """
        listed = set(read_list(Path(self.folder) / RELIABLE)) if self.reliable_first else set()
        first = [frame for frame in frames if f"{frame[0]}/{frame[2].stem}" in listed]
        if self.reliable_first and not first:
            raise DataError(f"{self.folder}/{RELIABLE} lists none of the {len(frames)} propagated frames")
        return first, [frame for frame in frames if f"{frame[0]}/{frame[2].stem}" not in listed]

    def weigh(self, confidence: Tensor) -> Tensor:
        """How much pixels count, by their confidence, both of one shape, float32 in [0, 1]."""
        kept = (confidence >= self.min_confidence) & (confidence > 0)
        return confidence * kept if self.weighted else kept.float()

    def _wants(self, entry: Entry) -> bool:
        if not entry.keyframes or entry.is_given:
            return False
        near = self.max_distance is None or abs(entry.offset) <= self.max_distance
        return near and (self.offsets is None or entry.offset in self.offsets)
