"""The record of a keyframe, from which training examples are drawn, and the two kinds of files that keep it."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wrp.geometry.fusion import WarpedLabels, gather
from wrp.io.caching import count_bytes
from wrp.io.writing import replacing

WHOLE, CROPS = ".cycles", ".crops"
"""Endings of the files of :meth:`CycleRecord.save` and :func:`save_crops`."""

Place = tuple[slice, slice]
"""Rows and columns of a part of a frame."""

# What a file needs for each tensor beside its values, in bytes: names, checksums, alignment.
_PER_TENSOR = 512


@dataclass
class Crop:
    """A part of a keyframe with the labels of some sources: one training example before it is disturbed.

    Attributes:
        image: I_t, (3, h, w) uint8.
        label: y_t, (h, w) uint8.
        teacher_probs: The teacher's probabilities p^S_t, (C, h, w) floating point in [0, 1].
        warped: The labels warped to t.

    Example:
        >>> label = torch.zeros(8, 8, dtype=torch.uint8)
        >>> none, away = torch.zeros(1, 8, 8), torch.zeros(1)
        >>> warped = WarpedLabels(label[None], none.bool(), none, away, away.long())
        >>> crop = Crop(label.expand(3, 8, 8), label, torch.full((2, 8, 8), 0.5), warped)
        >>> Crop.unpack(crop.pack()).teacher_probs[0, 0, 0]  # probabilities are kept as 0 … 255
        tensor(0.5020)
    """

    image: Tensor
    label: Tensor
    teacher_probs: Tensor
    warped: WarpedLabels

    def pack(self) -> bytes:
        """Compress it; probabilities and photometric errors are rounded to multiples of 1/255."""
        parts = vars(self) | vars(self.warped)
        del parts["warped"]
        parts |= {name: (parts[name].float() * 255).round().to(torch.uint8) for name in _ROUNDED}
        packed = io.BytesIO()
        np.savez_compressed(packed, **{name: part.numpy() for name, part in parts.items()})
        return packed.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> Crop:
        """Return what :meth:`pack` has packed; probabilities and photometric errors are float32."""
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            parts = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        parts |= {name: parts[name].float() / 255 for name in _ROUNDED}
        own = {name: parts.pop(name) for name in ("image", "label", "teacher_probs")}
        return cls(**own, warped=WarpedLabels(**parts))


_ROUNDED = ("teacher_probs", "photometric")


@dataclass
class CycleRecord:
    """All that training examples at one keyframe t are drawn from.

    Attributes:
        image: I_t, (3, H, W) uint8.
        label: y_t, (H, W) uint8.
        teacher_probs: The teacher's probabilities p^S_t, (C, H, W) float16 in [0, 1].
        cycles: For each offset k ≠ 0 of the window, the label of t after the cycle t → t+k → t.
        pairs: For each offset of another keyframe, its label warped to t: real one-way errors.

    Example:
        >>> image, probs = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, dtype=torch.float16)
        >>> CycleRecord(image, image[0], probs, cycles={}, pairs={}).nbytes()
        2048
    """

    image: Tensor
    label: Tensor
    teacher_probs: Tensor
    cycles: dict[int, WarpedLabels]
    pairs: dict[int, WarpedLabels]

    def nbytes(self) -> int:
        """Return the size of its file in bytes, rounded up."""
        tensors = [self.image, self.label, self.teacher_probs]
        for source in (*self.cycles.values(), *self.pairs.values()):
            tensors += vars(source).values()
        return count_bytes(tensors) + _PER_TENSOR * len(tensors)

    def crop(self, sources: list[WarpedLabels], place: Place) -> Crop:
        """Cut out a part with some sources; of a record that is mapped into memory, nothing else is read.

        The label is copied, as examples outlive the file.
        """
        warped = gather([source.crop(*place) for source in sources])
        whole = (slice(None), *place)
        return Crop(self.image[whole], self.label[place].clone(), self.teacher_probs[whole], warped)

    def longest(self) -> Crop:
        """Return the whole frame with its longest cycle on each side."""
        before, after = (
            [offset for offset in self.cycles if offset < 0],
            [offset for offset in self.cycles if offset > 0],
        )
        ends = [*sorted(before)[:1], *sorted(after)[-1:]]
        return self.crop([self.cycles[offset] for offset in ends], (slice(None), slice(None)))

    def save(self, path: Path) -> None:
        """Write the record to a file, whole or not at all."""
        with replacing(path) as temporary:
            torch.save(asdict(self), temporary)

    @classmethod
    def load(cls, path: Path) -> CycleRecord:
        """Map a file of :meth:`save` into memory: only the parts that are used later are read."""
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        for kind in ("cycles", "pairs"):
            state[kind] = {offset: WarpedLabels(**warped) for offset, warped in state[kind].items()}
        return cls(**state)


def save_crops(path: Path, crops: Iterator[Crop], max_bytes: float) -> None:
    """Write as many crops to a file as fit, at least one; each can be read by itself.

    Example:
        >>> import tempfile
        >>> image, probs = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, dtype=torch.float16)
        >>> warped = WarpedLabels(image[:1], image[:1].bool(), probs[:1], torch.ones(1), torch.zeros(1).long())
        >>> crop = CycleRecord(image, image[0], probs, {1: warped}, {}).longest()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.crops")
        ...     save_crops(path, iter([crop, crop]), max_bytes=1)
        ...     load_crop(path).label.shape
        torch.Size([8, 8])
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        size = 0
        for number, crop in enumerate(crops):
            packed = crop.pack()
            size += len(packed) + _PER_TENSOR
            if number and size > max_bytes:
                break
            archive.writestr(str(number), packed)


def load_crop(path: Path) -> Crop:
    """Read one crop of a file of :func:`save_crops`; of several, one at random by torch's global generator."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return Crop.unpack(archive.read(names[int(torch.randint(len(names), ()))] if len(names) > 1 else names[0]))


def is_readable(path: Path) -> bool:
    """Tell whether a file of either kind is there and complete.

    Example:
        >>> is_readable(Path("missing.cycles"))
        False
    """
    try:
        return bool(load_crop(path) if path.suffix == CROPS else CycleRecord.load(path))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
        return False


def draw_sources(record: CycleRecord, interval: int | None, pair_ratio: float) -> list[WarpedLabels]:
    """Draw the warped labels that two keyframes could give a frame t whose truth is known.

    They are either the labels of the nearest other keyframes, alone or with a cycle, or two cycles over t - k' and
    t + k with k + k' = ``interval``, as at inference; k = 0 gives the truth itself. At the end of a clip, both cycles
    are on one side. Random numbers come from torch's global generator.

    Args:
        record: The record of the frame.
        interval: K, in frames; None: the length of the longest cycle.
        pair_ratio: Probability, in [0, 1], of an example with the labels of other keyframes, if there are any.

    Returns:
        The warped labels of one or two sources.
    """
    longest = interval or max(abs(offset) for offset in record.cycles)
    if record.pairs and torch.rand(()) < pair_ratio:
        sources = [record.pairs[offset] for offset in _nearest_on_each_side(record.pairs)]
        if len(sources) == 1 and torch.rand(()) < 0.5:
            sources.append(_cycle(record, int(torch.randint(-longest, longest + 1, ()))))
        return sources
    before = int(torch.randint(0, longest + 1, ()))
    return [_cycle(record, -before), _cycle(record, longest - before)]


def _nearest_on_each_side(offsets: Mapping[int, WarpedLabels]) -> list[int]:
    sides = [[o for o in offsets if o < 0], [o for o in offsets if o > 0]]
    return [min(side, key=abs) for side in sides if side]


def _cycle(record: CycleRecord, offset: int) -> WarpedLabels:
    """Return the cycle over an offset, else that over the opposite offset, else that over the nearest offset."""
    if offset == 0:
        label = record.label
        zeros = torch.zeros_like(label[None])
        away = torch.zeros(1, device=label.device)
        return WarpedLabels(label[None], zeros.bool(), zeros.half(), away, away.long())
    for wanted in (offset, -offset):
        if wanted in record.cycles:
            return record.cycles[wanted]
    return record.cycles[min(record.cycles, key=lambda o: (abs(abs(o) - abs(offset)), abs(o - offset)))]
