"""What a propagation method is: one interface for the ways to label a frame between keyframes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, NamedTuple, get_args

from torch import Tensor
from typing_extensions import TypeVar

from wrp.errors import WrpError
from wrp.flow.source import FlowSource
from wrp.geometry.fusion import WarpedLabels, prefer_nearest
from wrp.structures import ClipBatch, RefinerInput

Keyframes = Literal["both", "previous", "nearest"]
"""Which keyframes a method uses: those on both sides, the earlier (or only) one, or at each pixel the nearest."""

KEYFRAMES: tuple[Keyframes, ...] = get_args(Keyframes)


class Labels(NamedTuple):
    """The label of one frame: ``labels`` (H, W) uint8, ``confidence`` (H, W) float32 in [0, 1], 0 where unlabelled."""

    labels: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Needs:
    """What a method needs beside the labels of the keyframes; what it has not declared, it does not get.

    Attributes:
        warped: Labels of the keyframes, warped into the frame (:attr:`QueryFrame.warped`).
        flow: Flow between any neighbours of the interval (:attr:`Context.flow`).
        teacher: The teacher's probabilities (:attr:`QueryFrame.teacher_probs`).
        refiner: The refiner (:attr:`Context.refiner`).
        neighbours: How many query frames on each side it looks at (:attr:`QueryFrame.neighbours`).
    """

    warped: bool = False
    flow: bool = False
    teacher: bool = False
    refiner: bool = False
    neighbours: int = 0


@dataclass(frozen=True)
class Context:
    """What a method may use in one interval.

    Attributes:
        num_classes: Number of classes C.
        interval: The interval, with its images and the labels of its keyframes.
        wanted: Indices in the clip of the frames that will be labelled, in temporal order.
        flow: Flow between its frames; None unless the method needs it.
        refiner: From inputs to logits (B, C, H, W); None unless the method needs it.
        refine: From inputs to the probabilities (B, C, H, W) of :func:`~wrp.refinement.network.refined`, zero where
            they are not finite; None unless the method needs the refiner.
    """

    num_classes: int
    interval: ClipBatch
    wanted: tuple[int, ...]
    flow: FlowSource | None = None
    refiner: Callable[[RefinerInput], Tensor] | None = None
    refine: Callable[[RefinerInput], Tensor] | None = None


@dataclass(frozen=True)
class Known:
    """What is known of one frame, whichever method asks.

    Attributes:
        index: j, in the clip.
        image: I_j, (3, H, W) uint8.
        keyframes: Labels (H, W) uint8 of the keyframes, by index in the clip; one or two.
        warped: Their labels warped into the frame, the earlier keyframe first; None where no method needs them.
        teacher_probs: Gives p^S_j, (C, H, W) float32; None where no method needs them.
        teacher_labels: Gives their decision; None likewise.
    """

    index: int
    image: Tensor
    keyframes: Mapping[int, Tensor]
    warped: WarpedLabels | None = None
    teacher_probs: Callable[[], Tensor] | None = None
    teacher_labels: Callable[[], Labels] | None = None


Part = TypeVar("Part")


def _require(part: Part | None, declared: bool, name: str) -> Part:
    if part is None or not declared:
        raise WrpError(f"a propagation method uses what it has not declared: add {name}=True to its Needs")
    return part


class QueryFrame:
    """One frame to label, as one method sees it.

    Args:
        known: The frame.
        needs: What the method needs.
        uses: Which keyframes it uses.
        around: This frame and others of the interval, by index.

    Attributes:
        index: j, in the clip.
        image: I_j, (3, H, W) uint8 RGB.
    """

    def __init__(self, known: Known, needs: Needs, uses: Keyframes, around: Mapping[int, Known]) -> None:
        self.index = known.index
        self.image = known.image
        self._known = known
        self._needs = needs
        self._uses = uses
        self._around = around

    @property
    def keyframes(self) -> dict[int, Tensor]:
        """Labels (H, W) uint8 of the keyframes that are used, by index in the clip, the earlier first."""
        used = used_keyframes(self._uses, self._known.keyframes)
        return {index: self._known.keyframes[index] for index in used}

    @property
    def warped(self) -> WarpedLabels:
        """Labels of the keyframes that are used, warped into this frame."""
        warped = _require(self._known.warped, self._needs.warped, "warped")
        if self._uses == "previous":
            return warped.of_keyframe(0)
        return prefer_nearest(warped) if self._uses == "nearest" else warped

    @property
    def teacher_probs(self) -> Tensor:
        """The teacher's probabilities p^S_j, (C, H, W) float32; zeros where they are not finite."""
        return _require(self._known.teacher_probs, self._needs.teacher, "teacher")()

    @property
    def teacher_labels(self) -> Labels:
        """The teacher's decision."""
        return _require(self._known.teacher_labels, self._needs.teacher, "teacher")()

    @property
    def neighbours(self) -> Mapping[int, QueryFrame]:
        """This frame and the query frames around it, by index, as far on each side as the method has declared."""
        return _Neighbours(self._around, self.index, self._needs, self._uses)


class _Neighbours(Mapping[int, QueryFrame]):
    """Query frames around one, made when they are looked at."""

    def __init__(self, around: Mapping[int, Known], index: int, needs: Needs, uses: Keyframes) -> None:
        self._around = around
        self._seen = range(index - needs.neighbours, index + needs.neighbours + 1)
        self._needs = needs
        self._uses = uses

    def __getitem__(self, index: int) -> QueryFrame:
        if index not in self._seen:
            raise KeyError(index)
        return QueryFrame(self._around[index], self._needs, self._uses, self._around)

    def __iter__(self) -> Iterator[int]:
        return (index for index in self._around if index in self._seen)

    def __len__(self) -> int:
        return sum(1 for _ in self)


State = TypeVar("State", default=Context)


class PropagationMethod(ABC, Generic[State]):
    """A way to label the frames between keyframes; it holds its settings, and nothing of any interval.

    Subclasses implement :meth:`predict` and stand in :attr:`PropagationModule.known_methods
    <wrp.propagation.module.PropagationModule.known_methods>` under a name.

    Args:
        keyframes: Which keyframes to use, one of :attr:`works_from`.

    Attributes:
        needs: What it needs.
        works_from: What ``keyframes`` may be; none where labels of keyframes are not used at all, else a clip whose
            labels have no pixel with a class stays unlabelled.

    Raises:
        WrpError: If it cannot work from these keyframes.
    """

    needs: Needs = Needs()
    works_from: ClassVar[frozenset[Keyframes]] = frozenset(KEYFRAMES)

    def __init__(self, keyframes: Keyframes = "both") -> None:
        if keyframes not in self.works_from and (keyframes != "both" or self.works_from):
            takes = ", ".join(one for one in KEYFRAMES if one in self.works_from) or "no keyframes"
            raise WrpError(f"{type(self).__name__} works from {takes}, got {keyframes!r}")
        self.keyframes = keyframes

    def start(self, context: Context) -> State:
        """Begin an interval and return what :meth:`predict` is handed for each of its frames; here, the context."""
        return context  # type: ignore[return-value]  # subclasses with another state override this

    @abstractmethod
    def predict(self, query: QueryFrame, state: State) -> tuple[Tensor, Tensor]:
        """Label one frame; those of :attr:`Context.wanted` come in temporal order.

        Returns:
            Labels (H, W) uint8 and confidence (H, W) float32 in [0, 1].
        """

    def close(self, state: State) -> None:
        """End an interval, whether all its frames were labelled or not: close what the state holds open."""


def used_keyframes(uses: Keyframes, known: Mapping[int, Tensor]) -> tuple[int, ...]:
    """The indices of those of the known keyframes that are used, in temporal order."""
    return tuple(sorted(known)[: 1 if uses == "previous" else None])
