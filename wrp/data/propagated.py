"""Propagated labels as training data: labels that a run of this package has written, beside the ground truth."""

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
    """Which propagated labels to train on, and with which weight.

    Attributes:
        folder: Folder of the run that wrote them: ``labels/``, ``confidence/`` and ``manifest.jsonl``.
        ratio: Ratio of the training crops that come from them, in (0, 1]; ground truth gives the others.
        min_confidence: Pixels below this confidence, in [0, 1], do not count.
        weighted: Whether the other pixels are weighted by their confidence, instead of all the same.
        max_distance: Frames farther than this from their nearest keyframe are left out; None: no limit.
        offsets: Only frames at these offsets from their nearest keyframe (in frames, negative before it) are used;
            None: all.
        truth_last: Number of last epochs that draw ground truth alone (Zhu et al., CVPR 2019).
        reliable_first: Number of first epochs that draw, beside the ground truth, only those of these frames that
            ``reliable.txt`` in the folder lists, lines ``<clip>/<frame>`` (after ST++).
        apart: Serve ground truth and these labels as two batches, ``labelled`` and ``unlabelled``, for a module that
            treats them differently, such as :class:`~wrp.selftraining.three_stage.ThreeStageModule`.
        weights: Folder below ``folder`` that the confidence of each pixel is read from: ``confidence``, or
            ``rectified``, which `wrp rectify` writes.

    Raises:
        DataError: If a value is out of its range, or ``apart`` is combined with options that it excludes.

    Example:
        >>> import torch
        >>> labels = PropagatedLabels("runs/street", min_confidence=0.5)
        >>> labels.weigh(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist()
        [0.0, 0.0, 0.5, 1.0]
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
        """Refuse values out of their range, and options that exclude one another."""
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
        """Return the frames of clips that have a propagated label, each with its clip's name and its index.

        Keyframes are left out.

        Raises:
            DataError: If the folder holds no manifest, or no such label within ``offsets`` and ``max_distance``.
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
                "and distances that were given"
            )
        return found

    def split(self, frames: list[tuple[str, int, Frame]]) -> tuple[list[tuple[str, int, Frame]], ...]:
        """Split frames into those in ``reliable.txt`` and the others; without ``reliable_first``, all are others.

        Raises:
            DataError: If the list is missing or names none of the frames.
        """
        listed = set(read_list(Path(self.folder) / RELIABLE)) if self.reliable_first else set()
        first = [frame for frame in frames if f"{frame[0]}/{frame[2].stem}" in listed]
        if self.reliable_first and not first:
            raise DataError(f"{self.folder}/{RELIABLE} lists none of the {len(frames)} propagated frames")
        return first, [frame for frame in frames if f"{frame[0]}/{frame[2].stem}" not in listed]

    def weigh(self, confidence: Tensor) -> Tensor:
        """Turn confidence into weights of the pixels, both of one shape, float32 in [0, 1]."""
        kept = (confidence >= self.min_confidence) & (confidence > 0)
        return confidence * kept if self.weighted else kept.float()

    def _wants(self, entry: Entry) -> bool:
        if not entry.keyframes or entry.is_given:
            return False
        near = self.max_distance is None or abs(entry.offset) <= self.max_distance
        return near and (self.offsets is None or entry.offset in self.offsets)
