"""Training examples of the refiner at frames whose truth is known: by cycles and keyframe pairs."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.v2 import ColorJitter

from wrp.errors import DataError, WrpError
from wrp.flow.estimator import FlowEstimator
from wrp.flow.hashing import content_hash, frame_hash
from wrp.flow.presets import as_flow
from wrp.geometry.consistency import to_unit
from wrp.io.caching import BoundedCache
from wrp.io.checkpoints import labels_seen_by
from wrp.io.outputs import EXAMPLES, claim, owner_of
from wrp.io.progress import progress
from wrp.io.together import in_turns, processes, together
from wrp.options import CycleArgs, KeepArgs
from wrp.refinement.cycles import make_cycles
from wrp.refinement.module import teacher_probabilities
from wrp.refinement.network import refiner_input
from wrp.refinement.noise import displace
from wrp.refinement.store import (
    CROPS,
    WHOLE,
    Crop,
    CycleRecord,
    draw_sources,
    is_readable,
    load_crop,
    save_crops,
)
from wrp.segmentation.module import load_segmenter
from wrp.structures import ClipBatch, ExampleSource, RefinerExamples, RefinerInput, Windows

logger = logging.getLogger("wrp")

# Part of the disk space that the records of validation may take; those of training may take the rest.
VALIDATION_RATIO = 0.25

# Crops that are kept of a frame whose record is too large, at most: drawing more takes as long as the record.
MOST_CROPS = 200

# Records that a process has opened at the same time, at most. They are mapped into memory; opening one takes as long as
# drawing several examples from it.
OPEN_RECORDS = 256


class CycleExamples(ExampleSource):
    """Training examples made from the sparse keyframes alone (cycle consistency).

    For each keyframe t, flow is composed once from t to both ends of its window, which yields the cycles t → t±k → t
    and the warped labels of other keyframes (:class:`~wrp.refinement.store.CycleRecord`). Random examples are drawn
    from these: two sources whose distances add up to that between two keyframes, as at inference, cropped.

    The records are made before training, each by one of the processes, and kept in files that all of them read. One
    that is too large is kept as crops that are drawn in advance, with probabilities rounded to multiples of 1/255.

    Args:
        teacher: Checkpoint of a SegmentationModule, or the module; frozen. None: the teacher's probabilities are zero.
        fold_teachers: Checkpoints of n teachers, where teacher i was trained without the keyframes i, i + n, …: the
            probabilities at each keyframe come from the teacher that has not seen its label (cross-fitting). None: all
            come from ``teacher``, which has seen all labels and is therefore better at keyframes than elsewhere.
        flow: Flow estimator, or its name in :data:`~wrp.flow.presets.PRESETS`; None: DIS.
        cycles: How examples are drawn.
        crops: Examples per batch of each process.
        crop_size: Height and width of an example in pixels; frames with a smaller side are used whole along that side.
        keep: Where the records of keyframes are kept, so that each is made once.

    Attributes:
        made: How many records this process has made.
        broken: Called with a clip and the error if one of its frames cannot be read; its keyframe is then left out.
            None: the error is raised.

    Example:
        >>> examples = CycleExamples(cycles=CycleArgs(interval=10), crops=2, crop_size=(64, 64))
        >>> examples.cycles.interval, examples.labels_seen
        (10, frozenset())
    """

    def __init__(
        self,
        teacher: str | nn.Module | None = None,
        fold_teachers: list[str] | None = None,
        flow: FlowEstimator | str | None = None,
        cycles: CycleArgs | None = None,
        crops: int = 6,
        crop_size: tuple[int, int] = (192, 256),
        keep: KeepArgs | None = None,
    ) -> None:
        self.teacher = teacher
        self.fold_teachers = fold_teachers or []
        self.flow = as_flow(flow)
        self.cycles = cycles or CycleArgs()
        self.crops = crops
        self.crop_size = crop_size
        self.keep = keep or KeepArgs()
        self.made = 0
        self.broken: Callable[[str, DataError], None] | None = None
        self._teachers: dict[str | None, Any] = {}
        self._temporary: str | None = None

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that the teachers were trained on."""
        seen: frozenset[str] = frozenset()
        for given in (self.teacher, *self.fold_teachers):
            seen |= labels_seen_by(given) if isinstance(given, str) else getattr(given, "labels_seen", frozenset())
        return seen

    def training(self, windows: Windows, num_classes: int, seed: int) -> Dataset[RefinerExamples]:
        """Make the records and the training set: random examples, see :meth:`~wrp.structures.ExampleSource.training`.

        Raises:
            WrpError: If a window has one frame only, the folder belongs to something else, or not all processes reach
                the folder.
        """
        return _Drawn(self, windows, num_classes, seed)

    def validation(self, windows: Windows, num_classes: int) -> Dataset[RefinerExamples]:
        """Make the records and the validation set: whole frames with their longest cycles, the same each time."""
        return _Longest(self, windows, num_classes)

    def record(self, window: ClipBatch, num_classes: int) -> CycleRecord:
        """Make the record of a keyframe along the flow to both ends of its window, on the GPU if there is one.

        Args:
            window: A keyframe with its neighbours.
            num_classes: Number of classes C.

        Raises:
            WrpError: If the window has one frame only.
        """
        if len(window.frames) < 2:
            raise WrpError(f"clip {window.clip}: a refiner needs at least two frames to learn from, got one")
        device = _device()
        window = window.to(device)
        query = window.queries[0]
        with torch.no_grad():
            cycles, pairs = make_cycles(window, self.flow.to(device), self.cycles.crossed)
            probs = teacher_probabilities(
                self._load_teacher(window.number, num_classes), window.frame(query), num_classes
            )
        cycles, pairs = ({k: one.to(torch.device("cpu")) for k, one in some.items()} for some in (cycles, pairs))
        self.made += 1
        image = window.frame(query).cpu().contiguous()
        return CycleRecord(image, window.labels[query].cpu(), probs.half().cpu(), cycles, pairs)

    def teacher_of(self, number: int) -> str | nn.Module | None:
        """Return the teacher that has not seen the label of this keyframe; without fold teachers, the only one."""
        folds = self.fold_teachers
        return folds[number % len(folds)] if folds else self.teacher

    def _load_teacher(self, number: int, num_classes: int) -> Any:
        given = self.teacher_of(number)
        if not isinstance(given, str):
            return given if given is None else given.to(_device()).eval()
        if given not in self._teachers:
            self._teachers[given] = load_segmenter(given, num_classes).to(_device())
        return self._teachers[given]

    def cut(self, record: CycleRecord) -> Crop:
        """Draw sources and a crop of a keyframe."""
        sources = draw_sources(record, self.cycles.interval, self.cycles.pair_ratio)
        sides = []
        for wanted, size in zip(self.crop_size, record.label.shape, strict=True):
            start = int(torch.randint(size - min(wanted, size) + 1, ()))
            sides.append(slice(start, start + min(wanted, size)))
        return record.crop(sources, (sides[0], sides[1]))

    def draw(self, crop: Crop) -> tuple[RefinerInput, Tensor]:
        """Draw one example from a crop: displace its labels, change its colours, and mirror half of them.

        Returns:
            Inputs with B = 1 and the truth (h, w) uint8.
        """
        warped, jitter = crop.warped, self.cycles.jitter
        if self.cycles.displacement:
            warped = replace(warped, labels=displace(warped.labels, self.cycles.displacement))
        example = refiner_input(to_unit(crop.image), warped, crop.teacher_probs)
        example.image = ColorJitter(jitter, jitter, jitter)(example.image)
        return (example.flip(), crop.label.flip(-1)) if torch.rand(()) < 0.5 else (example, crop.label)

    def open_folder(self) -> tuple[Path, int]:
        """Open the folder of the records, the same one in all processes; without ``keep.folder``, a temporary one.

        Returns:
            The folder, and how many bytes it may hold: ``keep.max_bytes`` or, with a warning, what the disk can hold.

        Raises:
            WrpError: If it belongs to something else, or not all processes reach it.
        """
        folder, room = together(lambda: self._claim() if processes()[1] == 0 else (Path(), 0))[0]

        def check() -> None:
            if owner_of(folder) != EXAMPLES:
                raise WrpError(
                    f"process {processes()[1]} does not reach {folder}, where the refiner's examples are kept: give "
                    "examples.keep.folder on a disk that all nodes reach"
                )

        together(check)
        return folder, room

    def _claim(self) -> tuple[Path, int]:
        keep = self.keep
        if keep.folder is None and self._temporary is None:
            self._temporary = tempfile.mkdtemp(prefix="wrp-examples-")
            weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        folder = claim(Path(keep.folder or self._temporary or ""), EXAMPLES, option="examples.keep.folder").absolute()
        there = sum(file.stat().st_size for ending in (WHOLE, CROPS) for file in folder.glob(f"*{ending}"))
        room = there + shutil.disk_usage(folder).free * 9 // 10  # other files need some as well
        if room < keep.max_bytes:
            logger.warning(
                "the disk of %s has room for %.1f GB of the refiner's examples, expected examples.keep.max_bytes, "
                "%.1f GB: fewer of them are kept",
                folder,
                room / 1e9,
                keep.max_bytes / 1e9,
            )
        return folder, min(room, keep.max_bytes)


@dataclass(frozen=True)
class _Kept:
    """The file with the record of a keyframe, and whose it is."""

    path: Path
    clip: str
    stem: str
    index: int


class _Examples(Dataset[RefinerExamples]):
    """Base of the data sets of a source: their records are made here, and read later.

    Args:
        source: Makes the records.
        windows: The keyframes with their neighbours.
        num_classes: Number of classes.
        ratio: Part of the source's disk space that is for these records.
        seed: Seed of the run.
    """

    def __init__(self, source: CycleExamples, windows: Windows, num_classes: int, ratio: float, seed: int = 0) -> None:
        self.source = source
        self.num_classes = num_classes
        self.seed = seed
        self._folder, room = source.open_folder()
        self._room = ratio * room / max(1, len(windows))
        self._records: BoundedCache[Path, CycleRecord] = BoundedCache(OPEN_RECORDS, _one)
        count, rank = processes()
        mine = progress(range(rank, len(windows), count), desc="Examples", unit="keyframe")
        parts = together(lambda: [self._try(windows[i]) for i in mine])
        self.kept = [kept for kept in in_turns(parts) if kept is not None]
        if not self.kept:
            raise WrpError("no keyframe is left for the refiner to learn from: all have a frame that cannot be read")
        source._teachers.clear()  # they are not needed in training, and may be on the GPU

    def __len__(self) -> int:
        return len(self.kept)

    def _name(self, key: str) -> str:
        """Return the name of the file with the crops of a record that is too large."""
        raise NotImplementedError

    def _crops(self, record: CycleRecord, key: str) -> Iterator[Crop]:
        """Yield the crops of a record that is too large."""
        raise NotImplementedError

    def _try(self, window: ClipBatch) -> _Kept | None:
        try:
            return self._keep(window)
        except DataError as error:
            if self.source.broken is None:
                raise
            self.source.broken(window.clip, error)
            return None

    def _keep(self, window: ClipBatch) -> _Kept:
        """Make the record of a keyframe, unless it is there, and keep it."""
        key = self._key(window)
        whole, crops = self._folder / f"{key}{WHOLE}", self._folder / f"{self._name(key)}{CROPS}"
        path = next(filter(is_readable, (whole, crops)), None)
        if path is None:
            record = self.source.record(window, self.num_classes)
            path = whole if record.nbytes() <= self._room else crops
            if path == whole:
                record.save(path)
            else:
                save_crops(path, self._crops(record, key), self._room)
        query = window.queries[0]
        return _Kept(path, window.clip, window.stems[query - window.first], query)

    def _crop(self, kept: _Kept, cut: Callable[[CycleRecord], Crop]) -> Crop:
        """Cut a crop out of a record that is whole, else take one of those that were cut out of it before."""
        if not kept.path.is_file():
            raise WrpError(f"{kept.path} is gone: leave the refiner's examples there until its training has ended")
        if kept.path.suffix == CROPS:
            return load_crop(kept.path)
        return cut(self._records.get(kept.path, partial(CycleRecord.load, kept.path)))

    @cached_property
    def _teacher_hashes(self) -> list[str]:
        """Hashes of the teachers' weights; computed once, as they do not change."""
        folds = self.source.fold_teachers
        return [_network_hash(fold) for fold in folds] if folds else [_network_hash(self.source.teacher)]

    def _key(self, window: ClipBatch) -> str:
        # Names are not enough: the same folder may later hold another data set, or corrected labels.
        frames = b"".join(frame_hash(window, i) for i in range(window.first, window.first + len(window.frames)))
        labels = {index: content_hash(label).hex() for index, label in sorted(window.labels.items())}
        names = (window.clip, window.queries[0], window.stems, hashlib.sha256(frames).hexdigest(), labels)
        teacher = self._teacher_hashes[window.number % len(self._teacher_hashes)]
        made = (self.source.flow.signature, self.source.cycles.crossed, teacher, self.num_classes)
        return _hash((names, made))


class _Drawn(_Examples):
    """Random examples at each keyframe."""

    def __init__(self, source: CycleExamples, windows: Windows, num_classes: int, seed: int) -> None:
        super().__init__(source, windows, num_classes, 1 - VALIDATION_RATIO, seed)

    def _name(self, key: str) -> str:
        cycles = self.source.cycles
        return f"{key}-{_hash((self.source.crop_size, cycles.interval, cycles.pair_ratio, self.seed))[:8]}"

    def _crops(self, record: CycleRecord, key: str) -> Iterator[Crop]:
        with _seeded(self.seed, int(key, 16)):
            for _ in range(MOST_CROPS):
                yield self.source.cut(record)

    def __getitem__(self, key: Any) -> RefinerExamples:
        number, place = (0, key) if isinstance(key, int) else (key.epoch, key.index)
        kept = self.kept[place]
        with _seeded(self.seed, number):
            inputs, label = self.source.draw(self._crop(kept, self.source.cut))
        return _example(kept, inputs, label)


class _Longest(_Examples):
    """Whole frames with their longest cycles."""

    def __init__(self, source: CycleExamples, windows: Windows, num_classes: int) -> None:
        super().__init__(source, windows, num_classes, VALIDATION_RATIO)

    def _name(self, key: str) -> str:
        return f"{key}-ends"

    def _crops(self, record: CycleRecord, key: str) -> Iterator[Crop]:
        yield record.longest()

    def __getitem__(self, key: int) -> RefinerExamples:
        kept = self.kept[key]
        crop = self._crop(kept, CycleRecord.longest)
        return _example(kept, refiner_input(to_unit(crop.image), crop.warped, crop.teacher_probs), crop.label)


def _example(kept: _Kept, inputs: RefinerInput, label: Tensor) -> RefinerExamples:
    return RefinerExamples(inputs, label[None], [kept.clip], [kept.stem], [kept.index])


def _one(_: CycleRecord) -> int:
    return 1


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's global generator on the CPU within the block, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        yield


def _hash(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:32]


def _device() -> torch.device:
    """Return the device on which records are made: a worker process of a data loader cannot use the GPU."""
    if torch.cuda.is_available() and get_worker_info() is None:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _network_hash(network: str | nn.Module | None) -> str:
    """Hash a network: the content of its checkpoint, or its weights and inference settings."""
    if network is None:
        return ""
    digest = hashlib.sha256()
    if isinstance(network, str):
        digest.update(Path(network).read_bytes())
    else:
        digest.update(repr(getattr(network, "inference", None)).encode())
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
