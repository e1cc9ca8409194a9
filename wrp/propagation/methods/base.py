"""The interface of propagation methods, which label the frames between keyframes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The labels of one frame: ``labels`` (H, W) uint8, ``confidence`` (H, W) float32 in [0, 1], 0 where unlabelled.

    Example:
        >>> import torch
        >>> labels, confidence = Labels(torch.ones(2, 2, dtype=torch.uint8), torch.full((2, 2), 0.9))
        >>> labels.shape
        torch.Size([2, 2])
    """

    labels: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Needs:
    """The inputs that a method needs in addition to the labels of the keyframes; others are not available to it.

    Attributes:
        warped: Labels of the keyframes, warped into the frame (:attr:`QueryFrame.warped`).
        flow: Flow between neighbouring frames of the interval (:attr:`Context.flow`).
        teacher: The teacher's probabilities and labels (:attr:`QueryFrame.teacher_probs`).
        refiner: The refiner (:attr:`Context.refiner`).
        neighbours: Context radius: how many query frames on each side it uses (:attr:`QueryFrame.neighbours`).

    Example:
        >>> Needs(warped=True, teacher=True).neighbours
        0
    """

    warped: bool = False
    flow: bool = False
    teacher: bool = False
    refiner: bool = False
    neighbours: int = 0


@dataclass(frozen=True)
class Context:
    """The inputs of a method that concern the whole interval.

    Attributes:
        num_classes: Number of classes C.
        interval: The interval, with its images and the labels of its keyframes.
        wanted: Indices in the clip of the frames that will be labelled, in temporal order.
        flow: Flow between its frames; None unless the method needs it.
        refiner: Maps inputs to logits (B, C, H, W); None unless the method needs it.
        refine: Maps inputs to the probabilities (B, C, H, W) of :func:`~wrp.refinement.network.refined`, zero where
            they are not finite; None unless the method needs the refiner.
        frames_per_call: Number of frames B that a network should take in one call.

    Example:
        >>> import torch
        >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2, torch.zeros(8, 8, dtype=torch.uint8)
        >>> interval = ClipBatch("street", ["a", "b"], 0, frames, {0: label}, queries=(0, 2))
        >>> Context(num_classes=2, interval=interval, wanted=(1,)).flow is None
        True
    """

    num_classes: int
    interval: ClipBatch
    wanted: tuple[int, ...]
    flow: FlowSource | None = None
    refiner: Callable[[RefinerInput], Tensor] | None = None
    refine: Callable[[RefinerInput], Tensor] | None = None
    frames_per_call: int = 1


@dataclass(frozen=True)
class Known:
    """The inputs of all methods for one frame; :class:`QueryFrame` is the part that one method has declared.

    Attributes:
        index: Index j of the frame in the clip.
        image: I_j, (3, H, W) uint8 RGB.
        keyframes: Labels (H, W) uint8 of the one or two keyframes, by index in the clip.
        warped: These labels, warped into the frame, the earlier keyframe first; None if no method needs them.
        warped_earlier: That part of ``warped`` that comes from the earlier or only keyframe.
        teacher_probs: Returns the teacher's probabilities p^S_j, (C, H, W) float32; None if no method needs them.
        teacher_labels: Returns their argmax with its confidence; None if no method needs it.

    Example:
        >>> import torch
        >>> label = torch.zeros(8, 8, dtype=torch.uint8)
        >>> Known(1, torch.zeros(3, 8, 8, dtype=torch.uint8), keyframes={0: label}).warped is None
        True
    """

    index: int
    image: Tensor
    keyframes: Mapping[int, Tensor]
    warped: WarpedLabels | None = None
    warped_earlier: WarpedLabels | None = None
    teacher_probs: Callable[[], Tensor] | None = None
    teacher_labels: Callable[[], Labels] | None = None


Part = TypeVar("Part")


def _require(part: Part | None, declared: bool, name: str) -> Part:
    if part is None or not declared:
        raise WrpError(f"a propagation method uses what it has not declared: add {name}=True to its Needs")
    return part


class QueryFrame:
    """One frame to label, with the inputs that one method has declared in its :class:`Needs`.

    Args:
        known: The inputs of all methods.
        needs: The needs of the method.
        uses: Which keyframes it uses.
        around: The same inputs of this frame and its neighbours, by index in the clip.

    Attributes:
        index: Index j of the frame in the clip.
        image: I_j, (3, H, W) uint8 RGB.

    Raises:
        WrpError: On access to an input that the method has not declared.

    Example:
        >>> import torch
        >>> label = torch.zeros(8, 8, dtype=torch.uint8)
        >>> known = Known(1, torch.zeros(3, 8, 8, dtype=torch.uint8), keyframes={0: label, 2: label})
        >>> query = QueryFrame(known, Needs(), uses="previous", around={1: known})
        >>> query.index, list(query.keyframes)
        (1, [0])
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
        """Labels (H, W) uint8 of the used keyframes, by index in the clip, the earlier first."""
        used = used_keyframes(self._uses, self._known.keyframes)
        return {index: self._known.keyframes[index] for index in used}

    @property
    def warped(self) -> WarpedLabels:
        """Labels of the used keyframes, warped into this frame."""
        earlier = self._uses == "previous"
        known = self._known.warped_earlier if earlier else self._known.warped
        warped = _require(known, self._needs.warped, "warped")
        return prefer_nearest(warped) if self._uses == "nearest" else warped

    @property
    def teacher_probs(self) -> Tensor:
        """The teacher's probabilities p^S_j, (C, H, W) float32; zeros where they are not finite."""
        return _require(self._known.teacher_probs, self._needs.teacher, "teacher")()

    @property
    def teacher_labels(self) -> Labels:
        """The teacher's labels, the argmax of its probabilities, and their confidence."""
        return _require(self._known.teacher_labels, self._needs.teacher, "teacher")()

    @property
    def neighbours(self) -> Mapping[int, QueryFrame]:
        """This frame and the query frames around it, by index in the clip, up to the declared context radius."""
        return _Neighbours(self._around, self.index, self._needs, self._uses)


class _Neighbours(Mapping[int, QueryFrame]):
    """The query frames around a frame, each made on access."""

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
    """Base of the propagation methods, which label the frames between keyframes.

    A method holds its settings; all that concerns an interval is in the state that :meth:`start` returns. Subclasses
    implement :meth:`predict` and are registered by name in :attr:`PropagationModule.known_methods
    <wrp.propagation.module.PropagationModule.known_methods>`.

    Args:
        keyframes: Which keyframes to use, one of :attr:`works_from`.

    Attributes:
        needs: The inputs that the method needs.
        works_from: Allowed values of ``keyframes``; empty if the method does not use the labels of keyframes. Methods
            that use them leave a clip unlabelled if none of its labels has a pixel with a class.

    Raises:
        WrpError: If the method cannot work from these keyframes.

    Example:
        >>> class FirstLabel(PropagationMethod):
        ...     def predict(self, query, state):
        ...         label = next(iter(query.keyframes.values()))
        ...         return label, (label != 255).float()
        >>> FirstLabel("previous").keyframes
        'previous'
    """

    needs: Needs = Needs()
    works_from: ClassVar[frozenset[Keyframes]] = frozenset(KEYFRAMES)

    def __init__(self, keyframes: Keyframes = "both") -> None:
        if keyframes not in self.works_from and (keyframes != "both" or self.works_from):
            takes = ", ".join(one for one in KEYFRAMES if one in self.works_from) or "no keyframes"
            raise WrpError(f"{type(self).__name__} works from {takes}, got {keyframes!r}")
        self.keyframes = keyframes

    def start(self, context: Context) -> State:
        """Begin an interval and return the state, which :meth:`predict` gets for each frame; here, the context."""
        return context  # type: ignore[return-value]  # subclasses with another state override this

    def prepare(self, queries: Sequence[QueryFrame], state: State) -> None:
        """Compute together what :meth:`predict` needs at several frames, to use a GPU better; by default, nothing.

        Args:
            queries: The next of the frames of :attr:`Context.wanted`. :meth:`predict` then gets them one by one.
            state: The state of the interval.
        """

    @abstractmethod
    def predict(self, query: QueryFrame, state: State) -> tuple[Tensor, Tensor]:
        """Label one frame.

        Args:
            query: The frame; the frames of :attr:`Context.wanted` come in temporal order.
            state: The state of the interval.

        Returns:
            Labels (H, W) uint8 and confidence (H, W) float32 in [0, 1].
        """

    def close(self, state: State) -> None:
        """End an interval, also if not all its frames were labelled: close files that the state holds open."""


def used_keyframes(uses: Keyframes, known: Mapping[int, Tensor]) -> tuple[int, ...]:
    """Return the indices of the used keyframes in temporal order.

    Args:
        uses: Which keyframes are used.
        known: The labels of the keyframes, by index in the clip.

    Example:
        >>> import torch
        >>> label = torch.zeros(8, 8, dtype=torch.uint8)
        >>> used_keyframes("both", {5: label, 0: label}), used_keyframes("previous", {5: label, 0: label})
        ((0, 5), (0,))
    """
    return tuple(sorted(known)[: 1 if uses == "previous" else None])
