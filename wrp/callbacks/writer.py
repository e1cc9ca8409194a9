"""Writing propagated labels to disk, interval by interval, from every process."""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import BasePredictionWriter

from wrp.opening import opened_image, parse_json
from wrp.outputs import LABELS, check_output, claim
from wrp.stopping import check_stop
from wrp.types import DataError, LabelMap, Propagated, WrpError
from wrp.writing import checksum, replacing, sync_folder, write_image, write_label, write_text

logger = logging.getLogger("wrp")

PARTS = "manifest.parts"

# The folders of a frame's files, below that of the run.
_KIND = re.compile(r"labels|confidence|source|methods/[^/\\]+(?<!\.\.)")

# Red: the earlier anchor, green: the later one, blue: the teacher; those who agree are mixed.
SOURCE_PALETTE = [255 * (source >> bit & 1) for source in range(8) for bit in range(3)]


class LabelWriter(BasePredictionWriter):
    """Write what ``trainer.predict`` yields in the package's folder layout.

    * ``labels/<clip>/<stem>.png``: indexed PNG of ids, of the module's last method; anchors' labels as they were given
    * ``methods/<method>/<clip>/<stem>.png``: the same of its other methods
    * ``confidence/<clip>/<stem>.png``: 8-bit grey, 255 is certain
    * ``source/<clip>/<stem>.png``: who says the same as the label, a sum of 1 the earlier or only anchor, 2 the later
      one, 4 the teacher
    * ``manifest.jsonl``: one line per frame, with the checksums of its files and of the networks, complete once all
      intervals are

    Every batch is noted in ``manifest.parts`` when all its files are there, so that an interrupted run can go on. The
    label map is the data module's. Files are encoded and written in threads, while the next frames are made.

    Args:
        out: Folder to write to, empty or written by this callback before, and apart from what the data module reads.
        resume: Leave out the intervals that are written there already. Of this run's settings only the networks are
            compared with theirs.
        threads: Threads that write.
    """

    kind: ClassVar[str] = LABELS
    """What the folder is claimed as, see :mod:`wrp.outputs`."""

    def __init__(self, out: str, resume: bool = False, threads: int = 2) -> None:
        super().__init__("batch")
        self.out = Path(out)
        self.resume = resume
        self.threads = threads
        self.kept: dict[Path, str] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder this callback's, and tell the data module what is there already."""
        readers = trainer.datamodule, getattr(pl_module, "flow", None)  # type: ignore[attr-defined]
        claimed = self.kind, {read for reader in readers for read in getattr(reader, "reads", ())}, "LabelWriter.out"
        self.out = check_output(self.out, *claimed)
        if stage != "predict":
            return
        if trainer.is_global_zero:
            claim(self.out, *claimed)
        trainer.strategy.barrier("claim")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.resume:
            data.done = written_parts(self.out, getattr(pl_module, "made_with", {}))
        self.kept = corrected_files(self.out, getattr(data, "done", frozenset()))

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Iterable[Propagated],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch of results."""
        label_map: LabelMap = trainer.datamodule.label_map  # type: ignore[attr-defined]
        final = pl_module.methods[-1]  # type: ignore[index]
        made_with = getattr(pl_module, "made_with", {})
        entries: list[tuple[dict[str, Any], dict[str, Future[str]]]] = []
        written: dict[str, Future[str]] = {}
        part = None
        with _Threads(self.threads, self.kept) as threads:
            for result in prediction:  # may be an iterator that works as it goes
                check_stop()
                part = part or self.out / PARTS / result.clip / f"{result.index:06d}.jsonl"
                labels = result.labels.cpu().numpy()
                name = Path(result.clip, f"{result.stem}.png")
                if result.method not in (final, "anchor"):
                    folder = method_folder(self.out, str(result.method))
                    kind = folder.relative_to(self.out).as_posix()
                    written[kind] = threads.do(write_label, folder / name, labels, label_map)
                    continue
                confidence = (result.confidence.float().cpu().numpy() * 255).round().astype(np.uint8)
                picture = Image.fromarray(confidence)
                written["labels"] = threads.do(write_label, self.out / "labels" / name, labels, label_map)
                written["confidence"] = threads.do(write_image, self.out / "confidence" / name, picture)
                if result.source is not None:
                    picture = Image.fromarray(result.source.cpu().numpy())
                    picture.putpalette(SOURCE_PALETTE)
                    written["source"] = threads.do(write_image, self.out / "source" / name, picture)
                entries.append((_entry(result, float(confidence.mean()) / 255) | made_with, written))
                written = {}
        lines = [
            json.dumps(entry | {"checksums": {kind: file.result() for kind, file in written.items()}})
            for entry, written in entries
        ]
        for folder in threads.folders:
            sync_folder(folder)
        # The note that a batch is complete comes last, when all else is on the disk.
        if part is not None:
            write_text(part, "\n".join(lines) + "\n")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Join the parts of the manifest once every process has written its own.

        ``on_predict_end`` would not do: Lightning leaves it out in a process that got no interval.
        """
        if stage != "predict":
            return
        trainer.strategy.barrier("manifest")
        if trainer.is_global_zero:
            join_manifest(self.out)


def join_manifest(out: Path) -> None:
    """Make ``manifest.jsonl`` of the parts that are there."""
    parts = sorted((out / PARTS).glob("*/*.jsonl"))
    with replacing(out / "manifest.jsonl") as temporary, temporary.open("w", encoding="utf-8") as manifest:
        manifest.writelines(part.read_text(encoding="utf-8") for part in parts if _entries(part))


def remove_temporaries(out: Path) -> None:
    """Delete what killed processes have left half written; once nobody writes there any more."""
    for folder in ("labels", "methods", "confidence", "source", PARTS):
        for path in (out / folder).rglob(".*.tmp"):
            path.unlink(missing_ok=True)


class _Threads:
    """A few threads that write a bounded number of files at a time; what one of them raises is raised here."""

    def __init__(self, threads: int, kept: dict[Path, str]) -> None:
        self.threads = threads
        self.kept = kept  # files that are not written, with the checksums to note for them
        self.pool = ThreadPoolExecutor(threads, "wrp-write")
        self.waiting: deque[Future[str]] = deque()
        self.folders: set[Path] = set()

    def __enter__(self) -> _Threads:
        return self

    def do(self, write: Callable[..., str], path: Path, *args: Any) -> Future[str]:
        """Write a file soon, after the oldest is done where too many wait: they hold a frame each."""
        if path in self.kept:
            noted = Future[str]()
            noted.set_result(self.kept[path])
            return noted
        self.folders.add(path.parent)
        if len(self.waiting) >= 4 * self.threads:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(write, path, *args))
        return self.waiting[-1]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self.waiting:
                future.result()


def method_folder(out: Path, method: str) -> Path:
    """Where the labels of a method that is not the last one are written; ``motion:previous`` is no file name."""
    return out / "methods" / method.replace(":", "-")


def written_parts(out: Path, made_with: dict[str, str] | None = None) -> frozenset[tuple[str, int, int]]:
    """Clip, first frame and number of frames of each interval that was written completely and is still there.

    Args:
        out: Where it was written.
        made_with: Hashes of the networks that the others will be made with; None: any.

    Raises:
        WrpError: If what is there was made with other networks.
    """
    parts = [(part, _entries(part)) for part in sorted((out / PARTS).glob("*/*.jsonl"))]
    for network, made in (made_with or {}).items():
        for part, entries in parts:
            if any(entry.get(network, made) != made for entry in entries):
                raise WrpError(
                    f"{out} holds labels that were made with another {network} than there is now ({part}); choose "
                    "another --out, or delete it to start anew"
                )
    return frozenset(
        (part.parent.name, int(part.stem), len(entries))
        for part, entries in parts
        if entries and all(_is_written(out, entry) for entry in entries)
    )


def _entries(part: Path) -> list[dict[str, Any]]:
    """The frames of a part; none where it is damaged: it will be written anew."""
    try:
        entries = [parse_json(line) for line in part.read_text(encoding="utf-8").splitlines()]
        whole = all(_belongs(entry, part, int(part.stem) + i) for i, entry in enumerate(entries))
    except (OSError, ValueError):
        return []
    return entries if whole else []


def _belongs(entry: Any, part: Path, index: int) -> bool:
    """Whether a line of a part is that of a frame."""
    if not isinstance(entry, dict) or "/" in str(entry.get("frame")):
        return False
    clip = part.parent.name
    label = f"labels/{clip}/{entry.get('frame')}.png"
    if [entry.get(key) for key in ("clip", "index", "label")] != [clip, index, label]:
        return False
    sums = entry.get("checksums")
    return isinstance(sums, dict) and {"labels", "confidence"} <= set(sums) and all(map(_KIND.fullmatch, sums))


def _is_written(out: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of a frame are there; what somebody else has written in their place is kept."""
    states = {path: state for path, _, state in _states(out, entry)}
    if "missing" in states.values():
        return False
    for path, state in states.items():
        if state == "corrected":
            logger.warning("%s is not what was written there; it is kept", path)
    return True


def _states(out: Path, entry: dict[str, Any]) -> Iterator[tuple[Path, str, str]]:
    """Each file of a frame, its checksum as it is noted, and whether it is ``whole``, ``missing`` or ``corrected``."""
    name = Path(entry["label"]).relative_to("labels")
    for kind, noted in entry["checksums"].items():
        path = out / kind / name
        if path.is_file() and checksum(path.read_bytes()) == noted:
            yield path, noted, "whole"
        else:  # what cannot be read is as good as missing
            yield path, noted, "corrected" if _is_image(path) else "missing"


def corrected_files(out: Path, done: frozenset[tuple[str, int, int]]) -> dict[Path, str]:
    """The files of intervals to be written again that somebody has corrected, with the checksums that are noted."""
    parts = [(part, _entries(part)) for part in sorted((out / PARTS).glob("*/*.jsonl"))]
    left = [entries for part, entries in parts if (part.parent.name, int(part.stem), len(entries)) not in done]
    states = (found for entries in left for entry in entries for found in _states(out, entry))
    return {path: noted for path, noted, state in states if state == "corrected"}


def _is_image(path: Path) -> bool:
    try:
        with opened_image(path) as image:
            image.load()
    except DataError:
        return False
    return True


def _entry(result: Propagated, mean_confidence: float) -> dict[str, Any]:
    return {
        "clip": result.clip,
        "frame": result.stem,
        "index": result.index,
        "method": result.method,
        "anchors": list(result.anchors),
        "distance": result.distance,
        "mean_confidence": round(mean_confidence, 4),
        "label": f"labels/{result.clip}/{result.stem}.png",
    }
