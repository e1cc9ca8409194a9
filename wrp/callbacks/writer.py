"""Write propagated labels to disk, interval by interval, from every process."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from wrp.flow.hashing import frame_hash
from wrp.geometry.backends.cpu import backend, tensor
from wrp.io.manifest import (
    BEGUN,
    Entry,
    check_networks,
    is_image,
    join_manifest,
    note_seen,
    noted_checksums,
    part_of,
    write_part,
)
from wrp.io.outputs import LABELS, check_output, claim, method_folder
from wrp.io.palettes import PROVENANCE_PALETTE
from wrp.io.stopping import check_stop
from wrp.io.writing import checksum, encode_image, encode_label, sync_folder, write_content
from wrp.structures import ClipBatch, LabelMap, Prediction

logger = logging.getLogger("wrp")

# Frames of a GPU that are copied to the host together: each copy waits for the GPU.
FRAMES_PER_COPY = 8


class LabelWriter(BasePredictionWriter):
    """Write the predictions of ``trainer.predict`` in the package's folder layout.

    * ``labels/<clip>/<stem>.png``: indexed PNG of ids, by the module's last method; the labels of keyframes as given
    * ``methods/<method>/<clip>/<stem>.png``: the same by its other methods
    * ``confidence/<clip>/<stem>.png``: 8-bit grey, 255 is certain
    * ``provenance/<clip>/<stem>.png``: which inputs agree with the label, a sum of 1 for the earlier or only keyframe,
      2 for the later one, 4 for the teacher
    * ``manifest.jsonl``: one line per frame, with the checksums of its files and the checkpoint hashes of the networks;
      written when all intervals are done

    Each batch is recorded in ``manifest.parts`` once all its files are written, so that an interrupted run can be
    resumed. The label map is that of the data module. Files are encoded and written in threads while the next frames
    are labelled.

    Args:
        out: Folder to write to: empty, or written by this callback before, and outside the folders that the data module
            reads.
        threads: Number of threads that write.

    Example:
        >>> writer = LabelWriter("runs/street", threads=4)
        >>> writer.out.name, writer.kind
        ('street', 'labels')
    """

    kind: ClassVar[str] = LABELS
    """Kind of output folder, see :mod:`wrp.io.outputs`."""

    def __init__(self, out: str, threads: int = 2) -> None:
        super().__init__("batch")
        self.out = Path(out)
        self.threads = threads
        self.noted: dict[Path, str] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Claim the folder for this callback, and record the hashes of the labels that data and networks have seen.

        Raises:
            WrpError: If the folder holds other files, or labels made by other networks that this run keeps.
        """
        readers = trainer.datamodule, getattr(pl_module, "flow", None)  # type: ignore[attr-defined]
        claimed = self.kind, {read for reader in readers for read in getattr(reader, "reads", ())}, "LabelWriter.out"
        self.out = check_output(self.out, *claimed)
        if stage != "predict":
            return
        if trainer.is_global_zero:
            claim(self.out, *claimed)
        trainer.strategy.barrier("claim")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        done: frozenset[tuple[str, int, int]] = getattr(data, "done", frozenset())
        if done:
            check_networks(self.out, getattr(pl_module, "checkpoint_hashes", {}))
        self.noted = noted_checksums(self.out, done)
        if trainer.is_global_zero:
            note_seen(self.out, {*getattr(data, "labels_seen", ()), *getattr(pl_module, "labels_seen", ())})

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the Trainer forget what is written: by default it would collect all predictions in memory."""
        trainer.predict_loop.return_predictions = False

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Iterable[Prediction],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the predictions of one batch."""
        label_map: LabelMap = trainer.datamodule.label_map  # type: ignore[attr-defined]
        final: str = pl_module.methods[-1]  # type: ignore[index, assignment]
        checkpoint_hashes = getattr(pl_module, "checkpoint_hashes", {})
        entries: list[tuple[Entry, dict[str, Future[str]]]] = []
        written: dict[str, Future[str]] = {}
        part = None
        # What is never labelled says nothing about how sure the labels are.
        never = batch.never if isinstance(batch, ClipBatch) else None
        may = None if never is None else ~never.cpu().numpy()
        with _Threads(self.threads, self.noted) as threads:
            # It may be a session, which labels while it is iterated over.
            for result, maps in _on_host(prediction, final):
                check_stop()
                if part is None:
                    part = part_of(self.out, result.clip, result.index)
                    threads.begin(part.with_suffix(BEGUN))
                labels = maps["labels"].numpy()
                name = Path(result.clip, f"{result.stem}.png")
                if result.method not in (final, "keyframe"):
                    folder = method_folder(self.out, str(result.method))
                    kind = folder.relative_to(self.out).as_posix()
                    written[kind] = threads.do(folder / name, encode_label, labels, label_map)
                    continue
                confidence = maps["confidence"].numpy()
                picture = Image.fromarray(confidence)
                written["labels"] = threads.do(self.out / "labels" / name, encode_label, labels, label_map)
                written["confidence"] = threads.do(self.out / "confidence" / name, encode_image, picture)
                if "provenance" in maps:
                    picture = Image.fromarray(maps["provenance"].numpy())
                    picture.putpalette(PROVENANCE_PALETTE)
                    written["provenance"] = threads.do(self.out / "provenance" / name, encode_image, picture)
                image = frame_hash(batch, result.index).hex() if isinstance(batch, ClipBatch) else ""
                mean = float((confidence if may is None else confidence[may]).mean()) / 255
                entries.append((_entry(result, mean, checkpoint_hashes, image), written))
                written = {}
        cuts = getattr(prediction, "cuts", ())
        if cuts:
            entries = [(_within_scene(entry, cuts), written) for entry, written in entries]
            _name_cuts([entry for entry, _ in entries])
        files = [{kind: file.result() for kind, file in written.items()} for _, written in entries]
        for folder in threads.folders:
            sync_folder(folder)
        # The batch is recorded as complete last, when all its files are on the disk.
        if part is not None:
            self.before_recording(batch)
            noted = zip(entries, files, strict=True)
            write_part(part, (replace(entry, checksums=checksums) for (entry, _), checksums in noted))

    def before_recording(self, batch: Any) -> None:
        """Do nothing; a subclass raises an error here if what it has written of a batch is not to be kept."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Join the parts of the manifest once every process has written its own.

        This is not done in ``on_predict_end``, as Lightning does not call it in a process without intervals.
        """
        if stage != "predict":
            return
        trainer.strategy.barrier("manifest")
        if trainer.is_global_zero:
            join_manifest(self.out)


Maps = dict[str, Tensor]
"""Maps (H, W) uint8 of one prediction: ``labels`` and, of the last method, ``confidence`` and ``provenance``."""


def _on_host(predictions: Iterable[Prediction], final: str) -> Iterator[tuple[Prediction, Maps]]:
    """Yield predictions with their maps in memory of the host; see :func:`_maps`.

    From a GPU, those of several frames are copied together, while the next frames are labelled.
    """
    waiting: list[tuple[Prediction, Maps]] = []
    copying: Iterator[tuple[Prediction, Maps]] = iter(())
    for result in predictions:
        waiting.append((result, _maps(result, final)))
        if sum("confidence" in maps for _, maps in waiting) >= _frames_per_copy(result.labels.device):
            begun, waiting = _begin_copy(waiting), []
            yield from copying
            copying = begun
    yield from copying
    if waiting:
        yield from _begin_copy(waiting)


def _frames_per_copy(device: torch.device) -> int:
    """Return how many frames are copied together; 0: each prediction by itself, as there is nothing to wait for."""
    return 0 if device.type == "cpu" else FRAMES_PER_COPY


def _begin_copy(made: Sequence[tuple[Prediction, Maps]]) -> Iterator[tuple[Prediction, Maps]]:
    """Begin one copy of all maps to the host; the iterator waits for it, and yields the maps there."""
    values = [value for _, maps in made for value in maps.values()]
    packed = torch.cat([value.flatten() for value in values])
    stream = torch.cuda.current_stream(packed.device) if packed.is_cuda else None
    packed = packed.to("cpu", non_blocking=stream is not None)  # from a GPU, into page-locked memory
    copied = None if stream is None else stream.record_event()

    def there() -> Iterator[tuple[Prediction, Maps]]:
        if copied is not None:
            copied.synchronize()
        parts = iter(packed.split([value.numel() for value in values]))
        for result, maps in made:
            yield result, {name: next(parts).view(value.shape) for name, value in maps.items()}

    return there()


def _maps(result: Prediction, final: str) -> Maps:
    """Return what is written of a prediction, on its device."""
    maps = {"labels": result.labels}
    if result.method in (final, "keyframe"):
        _, confidence = backend(result.confidence.float())
        maps["confidence"] = tensor((confidence * 255).round()).to(torch.uint8)
        if result.provenance is not None:
            maps["provenance"] = result.provenance
    return maps


class _Threads:
    """A few threads that write a bounded number of files at a time; their exceptions are raised in the caller.

    Files that a user has corrected are not overwritten. A file counts as corrected if it is readable and differs from
    its recorded checksum, or if it has no recorded checksum although no earlier run was interrupted while writing.

    Args:
        threads: Number of threads.
        noted: The recorded checksums of files that were written before.
    """

    def __init__(self, threads: int, noted: dict[Path, str]) -> None:
        self.threads = threads
        self.noted = noted
        self.interrupted = False
        self.pool = ThreadPoolExecutor(threads, "wrp-write")
        self.waiting: deque[Future[str]] = deque()
        self.folders: set[Path] = set()

    def __enter__(self) -> _Threads:
        return self

    def begin(self, begun: Path) -> None:
        """Mark a batch as begun, and remember whether an earlier run was interrupted in it."""
        self.interrupted = begun.is_file()
        write_content(begun, b"")

    def do(self, path: Path, encode: Callable[..., bytes], *args: Any) -> Future[str]:
        """Queue a file for writing and return the future of its checksum.

        If too many files are queued, wait for the oldest: each of them holds a frame in memory.
        """
        self.folders.add(path.parent)
        if len(self.waiting) >= 4 * self.threads:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(self._write, path, encode, *args))
        return self.waiting[-1]

    def _write(self, path: Path, encode: Callable[..., bytes], *args: Any) -> str:
        content = encode(*args)
        there = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        if there is not None and there != content and not self._is_ours(path, there) and is_image(path):
            logger.warning("%s is not what was written there; it is kept", path)
            return self.noted.get(path, checksum(content))
        write_content(path, content)
        return checksum(content)

    def _is_ours(self, path: Path, content: bytes) -> bool:
        return self.noted[path] == checksum(content) if path in self.noted else self.interrupted

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self.waiting:
                future.result()


def _entry(result: Prediction, mean_confidence: float, networks: dict[str, str], image: str) -> Entry:
    return Entry(
        result.clip,
        result.stem,
        result.index,
        result.method,
        result.keyframes,
        result.distance,
        round(mean_confidence, 4),
        f"labels/{result.clip}/{result.stem}.png",
        networks=networks,
        image=image,
    )


def _within_scene(entry: Entry, cuts: Collection[int]) -> Entry:
    """Return the entry of a frame with only those keyframes from which no cut parts it, and whether one follows."""
    keyframes = tuple(
        keyframe
        for keyframe in entry.keyframes
        if not any(min(keyframe, entry.index) <= cut < max(keyframe, entry.index) for cut in cuts)
    )
    distance = min((abs(entry.index - keyframe) for keyframe in keyframes), default=None)
    return replace(entry, keyframes=keyframes, distance=distance, cut=entry.index in cuts)


def _name_cuts(entries: Sequence[Entry]) -> None:
    """Log the cuts among consecutive frames, and the scenes without a keyframe."""
    for before, after in zip(entries, [*entries[1:], None], strict=True):
        if before.cut:
            where = f"behind {before.frame}" if after is None else f"between {before.frame} and {after.frame}"
            logger.warning("Clip %s: a cut %s; no label is propagated across it", before.clip, where)
    for has_keyframe, scene in groupby(entries, lambda entry: bool(entry.keyframes)):
        if not has_keyframe:
            frames = list(scene)
            logger.warning(
                "Clip %s: no label is propagated to frames %s … %s, as none of their scene is labelled",
                frames[0].clip,
                frames[0].frame,
                frames[-1].frame,
            )
