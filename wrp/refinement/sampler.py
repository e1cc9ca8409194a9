"""Training examples of the refiner at frames whose truth is known: by cycles and keyframe pairs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.v2 import ColorJitter

from wrp.errors import WrpError
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.flow.hashing import content_hash, frame_hash
from wrp.geometry.consistency import to_unit
from wrp.geometry.fusion import WarpedLabels, gather
from wrp.io.caching import BoundedCache
from wrp.io.checkpoints import labels_seen_by
from wrp.io.outputs import EXAMPLES, claim
from wrp.options import CycleArgs, KeepArgs
from wrp.refinement.cycles import make_cycles
from wrp.refinement.module import teacher_probabilities
from wrp.refinement.network import refiner_input, stack_inputs
from wrp.refinement.noise import displace
from wrp.refinement.store import CycleRecord, draw_sources, kept_record
from wrp.segmentation.module import load_segmenter
from wrp.structures import ClipBatch, ExampleSource, RefinerExamples, RefinerInput, Windows

Place = tuple[slice, slice]
"""Rows and columns of a part of a frame."""


class CycleExamples(ExampleSource):
    """Training examples made from the sparse keyframes alone (cycle consistency).

    For each keyframe t, flow is composed once from t to both ends of its window, which yields the cycles t → t±k → t
    and the warped labels of other keyframes (:class:`~wrp.refinement.store.CycleRecord`). Random examples are drawn
    from these: two sources whose distances add up to that between two keyframes, as at inference, cropped.

    Args:
        teacher: Checkpoint of a SegmentationModule, or the module; frozen. None: the teacher's probabilities are zero.
        fold_teachers: Checkpoints of n teachers, where teacher i was trained without the keyframes i, i + n, …: the
            probabilities at each keyframe come from the teacher that has not seen its label (cross-fitting). None: all
            come from ``teacher``, which has seen all labels and is therefore better at keyframes than elsewhere.
        flow: Flow estimator; None: DIS.
        cycles: How examples are drawn.
        crops: Examples per batch, all from one keyframe.
        crop_size: Height and width of an example in pixels; frames with a smaller side are used whole along that side.
        keep: Where the records of keyframes are kept, so that each is made once.

    Example:
        >>> examples = CycleExamples(cycles=CycleArgs(interval=10), crops=2, crop_size=(64, 64))
        >>> examples.cycles.interval, examples.labels_seen
        (10, frozenset())
    """

    def __init__(
        self,
        teacher: str | nn.Module | None = None,
        fold_teachers: list[str] | None = None,
        flow: FlowEstimator | None = None,
        cycles: CycleArgs | None = None,
        crops: int = 6,
        crop_size: tuple[int, int] = (192, 256),
        keep: KeepArgs | None = None,
    ) -> None:
        self.teacher = teacher
        self.fold_teachers = fold_teachers or []
        self.flow = flow if flow is not None else DIS()
        self.cycles = cycles or CycleArgs()
        self.crops = crops
        self.crop_size = crop_size
        self.keep = keep or KeepArgs()
        self._teachers: dict[str | None, Any] = {}

    @property
    def labels_seen(self) -> frozenset[str]:
        """The hashes of the labels that the teachers were trained on."""
        seen: frozenset[str] = frozenset()
        for given in (self.teacher, *self.fold_teachers):
            seen |= labels_seen_by(given) if isinstance(given, str) else getattr(given, "labels_seen", frozenset())
        return seen

    def training(self, windows: Windows, num_classes: int, seed: int) -> Dataset[RefinerExamples]:
        """Make the training set: random examples, see :meth:`~wrp.structures.ExampleSource.training`."""
        return _Drawn(self, windows, num_classes, seed)

    def validation(self, windows: Windows, num_classes: int) -> Dataset[RefinerExamples]:
        """Make the validation set: whole frames with their longest cycles, the same each time."""
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
        return CycleRecord(window.labels[query].cpu(), probs.half().cpu(), cycles, pairs)

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

    def draw(self, record: CycleRecord, image: Tensor) -> tuple[RefinerInput, Tensor]:
        """Draw one example.

        Args:
            record: The record of the keyframe.
            image: I_t, (3, H, W) float32 in [0, 1].

        Returns:
            Inputs with B = 1 and the truth (h, w) uint8.
        """
        place = self._draw_place(record.label)
        sources = draw_sources(record, self.cycles.interval, self.cycles.pair_ratio)
        # Each source is cropped by itself: the rest of it is not read from the disk.
        example = self.example(record, image, [source.crop(*place) for source in sources], place)
        truth = record.label[place]
        return (example.flip(), truth.flip(-1)) if torch.rand(()) < 0.5 else (example, truth)

    def example(self, record: CycleRecord, image: Tensor, sources: list[WarpedLabels], place: Place) -> RefinerInput:
        """Make the refiner's input for a crop of a keyframe, with displaced labels and colour jitter.

        Args:
            record: The record of the keyframe.
            image: I_t, (3, H, W) float32 in [0, 1].
            sources: Warped labels, already cropped.
            place: Rows and columns of the crop.

        Returns:
            Input with B = 1.
        """
        warped = gather(sources)
        if self.cycles.displacement:
            warped = replace(warped, labels=displace(warped.labels, self.cycles.displacement))
        whole = (slice(None), *place)
        example = refiner_input(image[whole], warped, record.teacher_probs[whole])
        jitter = self.cycles.jitter
        example.image = ColorJitter(jitter, jitter, jitter)(example.image)
        return example

    def _draw_place(self, label: Tensor) -> Place:
        """Draw the rows and columns of a random crop."""
        sides = []
        for wanted, size in zip(self.crop_size, label.shape, strict=True):
            start = int(torch.randint(size - min(wanted, size) + 1, ()))
            sides.append(slice(start, start + min(wanted, size)))
        return sides[0], sides[1]


class _Examples(Dataset[RefinerExamples]):
    """Base of the data sets of a source; records are made once and kept."""

    def __init__(self, source: CycleExamples, windows: Windows, num_classes: int) -> None:
        self.source = source
        self.windows = windows
        self.num_classes = num_classes
        keep = source.keep
        self._held: BoundedCache[str, CycleRecord] = BoundedCache(
            keep.max_bytes if keep.folder is None else 0, CycleRecord.nbytes
        )
        self._folder: Path | None = None
        if keep.folder is not None:
            self._folder = claim(Path(keep.folder), EXAMPLES, option="examples.keep.folder")
        self._frame_hashes: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.windows)

    @cached_property
    def _teacher_hashes(self) -> list[str]:
        """Hashes of the teachers' weights; computed once, as they do not change."""
        folds = self.source.fold_teachers
        return [_network_hash(fold) for fold in folds] if folds else [_network_hash(self.source.teacher)]

    def _record_of(self, number: int, window: ClipBatch) -> CycleRecord:
        key = self._key(number, window)
        make = partial(self.source.record, window, self.num_classes)
        if self._folder is None:
            return self._held.get(key, make)
        return kept_record(self._folder / f"{key}.cycles", self.source.keep.max_bytes, make)

    def _key(self, number: int, window: ClipBatch) -> str:
        # Names are not enough: the same folder may later hold another data set, or corrected labels.
        if number not in self._frame_hashes:  # once, as the frames of a long window are read on access
            frames = b"".join(frame_hash(window, i) for i in range(window.first, window.first + len(window.frames)))
            self._frame_hashes[number] = hashlib.sha256(frames).hexdigest()
        labels = {index: content_hash(label).hex() for index, label in sorted(window.labels.items())}
        names = (window.clip, window.queries[0], window.stems, self._frame_hashes[number], labels)
        teacher = self._teacher_hashes[window.number % len(self._teacher_hashes)]
        made = (self.source.flow.signature, self.source.cycles.crossed, teacher, self.num_classes)
        return hashlib.sha256(repr((names, made)).encode()).hexdigest()[:32]


class _Drawn(_Examples):
    """Random examples at each keyframe."""

    def __init__(self, source: CycleExamples, windows: Windows, num_classes: int, seed: int) -> None:
        super().__init__(source, windows, num_classes)
        self.seed = seed

    def __getitem__(self, key: Any) -> RefinerExamples:
        number, place = (0, key) if isinstance(key, int) else (key.epoch, key.index)
        window = self.windows[place]
        record = self._record_of(place, window)
        image = to_unit(window.frame(window.queries[0]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
            inputs, labels = zip(*(self.source.draw(record, image) for _ in range(self.source.crops)), strict=True)
        return _batch(window, list(inputs), torch.stack(labels))


class _Longest(_Examples):
    """Whole frames with their longest cycles."""

    def __getitem__(self, key: int) -> RefinerExamples:
        window = self.windows[key]
        record = self._record_of(key, window)
        ends = sorted({min(record.cycles), max(record.cycles)})
        image = to_unit(window.frame(window.queries[0]))
        inputs = refiner_input(image, gather([record.cycles[offset] for offset in ends]), record.teacher_probs)
        return _batch(window, [inputs], record.label[None])


def _batch(window: ClipBatch, inputs: list[RefinerInput], labels: Tensor) -> RefinerExamples:
    query = window.queries[0]
    return RefinerExamples(stack_inputs(inputs), labels, window.clip, window.stems[query - window.first], query)


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
