"""What a propagator is: one interface of the ways to label a frame between anchors, and what each is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import or_
from typing import Any, ClassVar

import torch
from torch import Tensor

from wrp.ops.cpu import backend, tensor
from wrp.ops.fusion import Evidence, prefer_nearest
from wrp.ops.labels import decide_frame
from wrp.types import IGNORE_INDEX, ClipBatch

ANCHORS = ("both", "previous", "nearest")

Labels = tuple[Tensor, Tensor]
"""Labels (H, W) uint8 and confidence (H, W) float32 in [0, 1] of one frame."""


def asked_anchors(anchors: str, known: Iterable[int]) -> list[int]:
    """Those of the known anchors that are asked where ``anchors`` says which, in temporal order."""
    return sorted(known)[: 1 if anchors == "previous" else None]


def distance_to(anchors: str, known: Iterable[int], index: int) -> int:
    """Frames from an index to the nearest of the anchors that are asked."""
    return min(abs(index - anchor) for anchor in asked_anchors(anchors, known))


@dataclass
class Target:
    """One frame to label and all that is known about it.

    Attributes:
        frame: I_j, (3, H, W) uint8.
        index: j, in the clip.
        anchors: Labels y_a (H, W) uint8 by index; one or two.
        evidence: What the anchors say, the earlier anchor first; None where no method asked for it.
        ask_teacher: Makes :attr:`semantic` from the frame.
        around: This frame and those of the interval around it that are to be labelled, by index; as far as
            :attr:`Propagator.reach` of any method.
        unlabelled: Whether no label of the clip has a pixel with a class.
    """

    frame: Tensor
    index: int
    anchors: dict[int, Tensor]
    evidence: Evidence | None
    ask_teacher: Callable[[Tensor], Tensor]
    around: dict[int, Target] = field(default_factory=dict)
    unlabelled: bool = False

    @cached_property
    def semantic(self) -> Tensor:
        """The teacher's probabilities p^S_j, (C, H, W), asked for once; zeros without a teacher."""
        return self.ask_teacher(self.frame)

    @cached_property
    def taught(self) -> Labels:
        """The teacher's decision."""
        return decide_frame(self.semantic)

    def forget(self) -> None:
        """Keep the teacher's decision, if it was asked, but not its probabilities, the largest part."""
        if "semantic" in vars(self):
            self.taught  # noqa: B018, kept
            del self.semantic

    @property
    def distance(self) -> int:
        """Frames to the nearest anchor."""
        return self.distance_to("both")

    def distance_to(self, anchors: str) -> int:
        """Frames to the nearest of the anchors that are asked."""
        return distance_to(anchors, self.anchors, self.index)

    def who_says(self, labels: Tensor) -> Tensor | None:
        """(H, W) uint8, see :attr:`~wrp.types.Propagated.source`; None where neither anchors nor teacher were asked."""
        said = []
        if self.evidence is not None:
            said = [(1 << int(a), said) for a, said in zip(self.evidence.anchor, self.evidence.labels, strict=True)]
        if "semantic" in vars(self) or "taught" in vars(self):
            said.append((4, self.taught[0]))
        if not said:
            return None
        bits = torch.tensor([bit for bit, _ in said], dtype=torch.uint8, device=labels.device)
        _, labels, bits, *maps = backend(labels, bits, *(theirs for _, theirs in said))
        source = reduce(or_, (bit * (theirs == labels) for bit, theirs in zip(bits, maps, strict=True)))
        return tensor(source * (labels != IGNORE_INDEX))

    def seen_from(self, anchors: str) -> Evidence:
        """What ``both`` anchors say, the ``previous`` one or the only one, or the ``nearest`` that sees the point."""
        assert self.evidence is not None, "the propagator did not say that it needs motion"
        if anchors == "previous":
            return self.evidence.of_anchor(0)
        return prefer_nearest(self.evidence) if anchors == "nearest" else self.evidence


class Propagator:
    """A way to label frames. Subclasses implement :meth:`label` and stand in ``PropagationModule.propagators``.

    Args:
        anchors: Which anchors to ask: ``both``, ``previous`` or ``nearest``.

    Attributes:
        needs_motion: Whether :attr:`Target.evidence` is used.
        needs_teacher: Whether the teacher is asked.
        needs_refiner: Whether the refiner is asked.
        takes_anchors: The values of ``anchors`` that make sense; none where labels of anchors are not used, else a clip
            whose labels have no pixel with a class stays unlabelled.
    """

    needs_motion: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_refiner: ClassVar[bool] = False
    takes_anchors: ClassVar[tuple[str, ...]] = ANCHORS

    def __init__(self, anchors: str = "both") -> None:
        self.anchors = anchors

    @property
    def reach(self) -> int:
        """How many frames before and behind a target are looked at to label it, see :attr:`Target.around`."""
        return 0

    def begin(self, module: Any, batch: ClipBatch) -> None:
        """Called before the targets of an interval, which come in temporal order, come to :meth:`label`."""

    def end(self) -> None:
        """Called behind the last target of an interval; let go of what :meth:`begin` has kept."""

    def label(self, module: Any, target: Target) -> Labels:
        """Label one frame.

        Args:
            module: The PropagationModule, with its ``flow``, ``teacher`` and ``refiner``.
            target: The frame.
        """
        raise NotImplementedError
