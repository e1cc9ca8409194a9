"""Data modules over the small data sets of the tests, and processes that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import Dataset

from tests.clips import id_picture, save
from wrp.data.images import ImageData
from wrp.data.propagation import PropagationData
from wrp.data.refinement import RefinementData
from wrp.data.segmentation import SegmentationData
from wrp.data.transforms import Draw
from wrp.io.writing import checksum
from wrp.options import SamplingArgs, SelectArgs
from wrp.structures import ExampleSource, Windows

CROP = (16, 24)

EVERY_FOURTH = SelectArgs(label_every=4)


class _ByDraw(Dataset[Any]):
    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, draw: Draw) -> Any:
        return self.windows[draw.index]


@dataclass(frozen=True)
class AsTheyAre(ExampleSource):
    """A source whose examples are the windows themselves.

    Attributes:
        seen: The hashes of labels that it is said to have seen.
    """

    seen: frozenset[str] = frozenset()

    @property
    def labels_seen(self) -> frozenset[str]:
        return self.seen

    def training(self, windows: Windows, num_classes: int, seed: int) -> Dataset[Any]:
        return _ByDraw(windows)

    def validation(self, windows: Windows, num_classes: int) -> Dataset[Any]:
        return windows  # type: ignore[return-value]


def sample(**changes: Any) -> SamplingArgs:
    """How small crops are drawn."""
    return SamplingArgs(**{"crop_size": CROP, "batch_size": 2, **changes})


def single(root: object, sampling: SamplingArgs | None = None, **changes: Any) -> SegmentationData:
    """Single frames; of every clip, every fourth label is for training."""
    arguments: dict[str, Any] = {"num_classes": 3, "select": EVERY_FOURTH, **changes}
    return SegmentationData(root=str(root), sampling=sampling or sample(), **arguments)


def windows(root: object, **changes: Any) -> RefinementData:
    """Labelled frames with their neighbours; of every clip, every fourth label is for training."""
    arguments: dict[str, Any] = {"num_classes": 3, "select": EVERY_FOURTH, "examples": AsTheyAre(), **changes}
    return RefinementData(root=str(root), **arguments)


def intervals(root: object, **changes: Any) -> PropagationData:
    """Intervals between keyframes, which are every fourth label of every clip."""
    return PropagationData(**{"num_classes": 3, "root": str(root), "select": EVERY_FOURTH, **changes})


def images(root: object, **changes: Any) -> ImageData:
    """Images without video."""
    return ImageData(**{"num_classes": 3, "root": str(root), "sampling": sample(), **changes})


def make_run(out: Path, clip: str = "walk", count: int = 9, every: int = 4, value: int = 7) -> str:
    """What a run writes: one label for each frame, of one id, and a confidence that falls with the distance."""
    lines = []
    for i in range(count):
        keyframes = (
            [i] if i % every == 0 else [a for a in (i // every * every, i // every * every + every) if a < count]
        )
        stem = f"{i:05d}"
        away = min(abs(i - a) for a in keyframes)
        save(out / "labels" / clip / f"{stem}.png", id_picture(0, (value,)))
        save(out / "confidence" / clip / f"{stem}.png", id_picture(0, (255 - 100 * away,)))
        entry = {"clip": clip, "frame": stem, "index": i, "keyframes": keyframes, "label": f"labels/{clip}/{stem}.png"}
        entry |= {"method": "motion", "distance": away, "mean_confidence": 1 - 0.4 * away}
        files = {kind: out / kind / clip / f"{stem}.png" for kind in ("labels", "confidence")}
        entry["checksums"] = {kind: checksum(path.read_bytes()) for kind, path in files.items()}
        lines.append(json.dumps({"schema": 2} | entry))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return str(out)


@contextmanager
def process(rank: int, count: int) -> Iterator[None]:
    """As if this were one of so many processes, which some launcher has started."""
    with (
        patch.object(torch.distributed, "is_initialized", lambda: True),
        patch.object(torch.distributed, "get_world_size", lambda *_: count),
        patch.object(torch.distributed, "get_rank", lambda *_: rank),
    ):
        yield
