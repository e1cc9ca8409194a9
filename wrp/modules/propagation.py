"""Labelling the frames between the anchors: the main job."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wrp.flow.cache import cached
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.flow.walk import walk_interval
from wrp.metrics.propagation import PropagationScore
from wrp.models.refiner import refiner_input
from wrp.modules.base import BaseModule, load_module
from wrp.modules.refinement import RefinementModule, load_teacher, semantic_probabilities
from wrp.ops.consistency import to_unit
from wrp.ops.fusion import Evidence, anchor_weights, elect, motion_error, nearest_weights
from wrp.ops.labels import decide_frame
from wrp.types import IGNORE_INDEX, ClipBatch, Propagated, WrpError


@dataclass
class Target:
    """One frame to label and all that is known about it.

    Attributes:
        frame: I_j, (3, H, W) uint8.
        evidence: What the anchors say; the earlier anchor first.
        ask_teacher: Makes :attr:`semantic` from the frame.
    """

    frame: Tensor
    evidence: Evidence
    ask_teacher: Callable[[Tensor], Tensor]

    @cached_property
    def semantic(self) -> Tensor:
        """The teacher's probabilities p^S_j, (C, H, W), asked for once; zeros without a teacher."""
        return self.ask_teacher(self.frame)


Labels = tuple[Tensor, Tensor]
"""Labels (H, W) uint8 and confidence (H, W) float32 in [0, 1] of one frame."""

Propagator = Callable[["PropagationModule", Target], Labels]


def motion(module: PropagationModule, target: Target) -> Labels:
    """Motion-only y^M (paper), here from both anchors (ours)."""
    return elect(target.evidence.labels, anchor_weights(target.evidence))


def motion_previous(module: PropagationModule, target: Target) -> Labels:
    """Motion-only from the earlier anchor, or the only one (paper)."""
    first = Evidence(*(value[:1] for value in vars(target.evidence).values()))
    return elect(first.labels, first.known.float())


def motion_nearest(module: PropagationModule, target: Target) -> Labels:
    """Motion-only from the nearest anchor that sees the point."""
    return elect(target.evidence.labels, nearest_weights(target.evidence))


def semantic(module: PropagationModule, target: Target) -> Labels:
    """Semantic-only y^S (paper): the teacher."""
    return decide_frame(target.semantic)


def warp_inpaint(module: PropagationModule, target: Target) -> Labels:
    """Warp-inpaint y^WI (paper): the teacher where motion is in error."""
    error = motion_error(target.evidence)
    by_motion, by_teacher = motion(module, target), semantic(module, target)
    return torch.where(error, by_teacher[0], by_motion[0]), torch.where(error, by_teacher[1], by_motion[1])


def warp_refine(module: PropagationModule, target: Target) -> Labels:
    """Warp-refine y^WR (paper): the refiner's answer to warp-inpaint."""
    assert module.refiner is not None
    inputs = refiner_input(to_unit(target.frame), target.evidence, target.semantic)
    return decide_frame(module.refiner(inputs)[0].float().softmax(0))


PROPAGATORS: dict[str, Propagator] = {
    "motion": motion,
    "motion:previous": motion_previous,
    "motion:nearest": motion_nearest,
    "semantic": semantic,
    "inpaint": warp_inpaint,
    "refine": warp_refine,
}
NEEDS_TEACHER = frozenset({"semantic", "inpaint", "refine"})
NEEDS_REFINER = frozenset({"refine"})


class PropagationModule(BaseModule):
    """Label propagation from both anchors of an interval (:class:`~wrp.types.ClipBatch`, ``serve: intervals``).

    ``trainer.predict`` gives a list of :class:`~wrp.types.Propagated` for each interval, one per frame and method,
    anchors included; ``trainer.test`` scores hidden frames and logs ``test/<method>/miou`` and
    ``test/<method>/miou_<distance>`` in percent. Flow and what the later anchor says go to the disk when an interval is
    long; without ``return_predictions=False`` the results, 5 bytes per pixel, frame and method, are kept in memory.

    Args:
        num_classes: Number of classes C.
        methods: What to compute, of ``motion`` (both anchors blended), ``motion:previous``, ``motion:nearest``,
            ``semantic``, ``inpaint`` and ``refine``. The last one listed is the result. Subclasses add their own to
            :attr:`propagators`.
        teacher: Checkpoint of a SegmentationModule, or the module; needed by the last three.
        refiner: Checkpoint of a RefinementModule, or the module; needed by ``refine``.
        flow: Flow estimator; None: DIS.

    Raises:
        WrpError: If a method is unknown or lacks its network, or a checkpoint does not fit.
    """

    frozen = ("teacher", "refiner", "flow")
    propagators: ClassVar[dict[str, Propagator]] = PROPAGATORS

    def __init__(
        self,
        num_classes: int,
        methods: Sequence[str] = ("motion",),
        teacher: str | nn.Module | None = None,
        refiner: str | nn.Module | None = None,
        flow: FlowEstimator | None = None,
    ) -> None:
        super().__init__("adamw", 0.0, 0.0)
        methods = [methods] if isinstance(methods, str) else list(methods)
        check_methods(methods, self.propagators)
        passed = [name for name, value in (("teacher", teacher), ("refiner", refiner)) if isinstance(value, nn.Module)]
        self.save_hyperparameters(ignore=["flow", *passed])
        self.num_classes = num_classes
        self.methods = methods
        self.flow = cached(flow if flow is not None else DIS())
        self.teacher = load_teacher(teacher, num_classes)
        self.refiner = load_refiner(refiner, num_classes)
        for names, part in ((NEEDS_TEACHER, "teacher"), (NEEDS_REFINER, "refiner")):
            if getattr(self, part) is not None:
                self.freeze_part(part)
            elif wanting := [method for method in methods if method in names]:
                raise WrpError(f"method {wanting[0]!r} needs a {part}: pass {part}=<checkpoint>")
        self.test_score = PropagationScore(num_classes, methods)

    def label(self, method: str, target: Target) -> Labels:
        """Labels (H, W) uint8 and confidence (H, W) float32 of one frame by one method."""
        return self.propagators[method](self, target)

    @torch.no_grad()
    def targets(self, batch: ClipBatch) -> Iterator[tuple[int, Target | None]]:
        """Index and knowledge of each frame of an interval in temporal order; None at the anchors."""
        for index, evidence in walk_interval(batch, self.flow):
            if evidence is None:
                yield index, None
                continue
            yield index, Target(batch.frame(index), evidence, self.semantic)

    def semantic(self, frame: Tensor) -> Tensor:
        """The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8; zeros without a teacher."""
        return semantic_probabilities(self.teacher, frame, self.num_classes)

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Iterable[Propagated]:
        """Label an interval by every method.

        Returns:
            A list; an iterator that labels frame by frame, for one consumer, where a trainer was told not to collect
            predictions, so that memory does not grow with the interval.
        """
        results = self.propagate(_interval(batch))
        collected = self._trainer is None or self.trainer.predict_loop.return_predictions
        return list(results) if collected else self._one_by_one(results)

    def _one_by_one(self, results: Iterator[Propagated]) -> Iterator[Propagated]:
        """The same results, each in the trainer's precision: the writer asks for them when the step is over."""
        end: Any = object()
        while True:
            with self.trainer.precision_plugin.predict_step_context():
                result = next(results, end)
            if result is end:
                return
            yield result

    @torch.no_grad()
    def propagate(self, batch: ClipBatch) -> Iterator[Propagated]:
        """Labels of each frame of an interval by every method, in temporal order, anchors included."""
        anchors = tuple(sorted(batch.labels))
        for index, target in self.targets(batch):
            name = (batch.clip, batch.stems[index - batch.first], index)
            if target is None:
                label = batch.labels[index]
                yield Propagated(*name, "anchor", label, (label != IGNORE_INDEX).float(), (index,), 0)
                continue
            distance = min(abs(index - a) for a in anchors)
            for method in self.methods:
                labels, confidence = self.label(method, target)
                yield Propagated(*name, method, labels, confidence, anchors, distance)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the hidden frames of an interval."""
        for index, target in self.targets(_interval(batch)):
            if target is None or index not in batch.hidden:
                continue
            distance = min(abs(index - a) for a in batch.labels)
            for method in self.methods:
                self.test_score.update(method, distance, self.label(method, target)[0], batch.hidden[index])

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        for method, score in self.test_score.compute().items():
            if score["frames"]:
                self.log(f"test/{method}/miou", score["miou"])
                for distance, miou in score["by_distance"].items():
                    self.log(f"test/{method}/miou_{distance}", miou)
        self.test_score.reset()

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""


def check_methods(methods: Sequence[str], known: Collection[str] = PROPAGATORS) -> None:
    """Raise WrpError unless there is at least one method, all are known, and each is named once."""
    unknown = [method for method in methods if method not in known]
    if unknown or not methods or len(set(methods)) < len(methods):
        raise WrpError(f"methods must be some of {', '.join(known)}, each once; got {', '.join(methods) or 'none'}")


def load_refiner(refiner: str | nn.Module | None, num_classes: int) -> nn.Module | None:
    """The refining network from a checkpoint of a RefinementModule, or of the module."""
    if refiner is None:
        return None
    module = load_module(RefinementModule, refiner, teacher=None) if isinstance(refiner, str) else refiner
    if module.num_classes != num_classes:
        raise WrpError(f"the refiner {refiner} knows {module.num_classes} classes, expected {num_classes}")
    return module


def _interval(batch: ClipBatch) -> ClipBatch:
    if not isinstance(batch, ClipBatch):
        raise WrpError(
            f"PropagationModule labels intervals, got a {type(batch).__name__}: set data.init_args.serve=intervals"
        )
    return batch
