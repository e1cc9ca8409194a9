"""Labelling the frames between the anchors: the main job."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor, nn

from wrp.flow.cache import cached
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.flow.walk import walk_interval
from wrp.metrics.propagation import PropagationScore, Truth
from wrp.modules.base import BaseModule, file_hash
from wrp.modules.confidence import ConfidenceCounts, counts_of, fit_confidence, read_calibration
from wrp.modules.loading import load_module
from wrp.modules.propagators import PROPAGATORS, make_propagators
from wrp.modules.refinement import RefinementModule, semantic_probabilities
from wrp.modules.segmentation import load_segmenter
from wrp.modules.targets import Labels, Propagator, Target, asked_anchors, distance_to
from wrp.ops.finite import NotFinite
from wrp.ops.fusion import Evidence, motion_error
from wrp.ops.labels import hide_unsure
from wrp.types import IGNORE_INDEX, ClipBatch, Propagated, WrpError

logger = logging.getLogger("wrp")

# Share of an interval's pixels from which on values that are not finite are no accident.
MOST_NOT_FINITE = 0.01

# Scores that are logged beside mIoU.
OTHER_SCORES = ("miou_trimap", "miou_inside_error", "miou_outside_error", "ece")


class PropagationModule(BaseModule):
    """Label propagation from both anchors of an interval (:class:`~wrp.types.ClipBatch`, ``serve: intervals``).

    ``trainer.predict`` gives a list of :class:`~wrp.types.Propagated` for each interval, one per frame and method,
    anchors included. ``trainer.test`` scores hidden frames and logs ``test/<method>/miou``, ``miou_<distance>``,
    ``miou_trimap``, ``miou_inside_error`` and ``miou_outside_error`` in percent and ``ece``, and the same of
    ``oracle`` where both motion and the teacher are asked. Flow and what the later anchor says go to the disk when an
    interval is long; without ``return_predictions=False`` the results, 5 bytes per pixel, frame and method, are kept in
    memory.

    Args:
        num_classes: Number of classes C.
        methods: What to compute: ``copy``, ``motion``, ``vote-once``, ``vote``, ``semantic``, ``inpaint`` and
            ``refine``, see :mod:`wrp.modules.propagators`. Both anchors are asked; ``motion:previous`` and
            ``motion:nearest`` ask one, and so do the others but ``semantic``. The last one listed is the result.
            Subclasses add their own to :attr:`propagators`.
        teacher: Checkpoint of a SegmentationModule, or the module; needed by the last three.
        refiner: Checkpoint of a RefinementModule, or the module; needed by the last one.
        flow: Flow estimator; None: DIS.
        calibration: JSON file of what :meth:`calibrate` has found; None: confidence is the label's probability mass.
        min_confidence: Labels that are less confident than this are predicted as 255; tests score all of them.

    Raises:
        WrpError: If a method is unknown or lacks its network, or a checkpoint does not fit.
    """

    frozen = ("teacher", "refiner", "flow")
    propagators: ClassVar[dict[str, type[Propagator]]] = PROPAGATORS

    def __init__(
        self,
        num_classes: int,
        methods: Sequence[str] = ("motion",),
        teacher: str | nn.Module | None = None,
        refiner: str | nn.Module | None = None,
        flow: FlowEstimator | None = None,
        calibration: str | None = None,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__("adamw", 0.0, 0.0)
        if not 0 <= min_confidence <= 1:
            raise WrpError(f"min_confidence must be in [0, 1], got {min_confidence}")
        methods = [methods] if isinstance(methods, str) else list(methods)
        self.chosen = make_propagators(methods, self.propagators)
        passed = [name for name, value in (("teacher", teacher), ("refiner", refiner)) if isinstance(value, nn.Module)]
        self.save_hyperparameters(ignore=["flow", *passed])
        self.num_classes = num_classes
        self.methods = methods
        self.flow = cached(flow if flow is not None else DIS())
        self.teacher = load_segmenter(teacher, num_classes)
        self.refiner = load_refiner(refiner, num_classes)
        for part in ("teacher", "refiner"):
            wanting = [name for name, chosen in self.chosen.items() if getattr(chosen, f"needs_{part}")]
            if getattr(self, part) is not None:
                self.freeze_part(part)
            elif wanting:
                raise WrpError(f"method {wanting[0]!r} needs a {part}: pass {part}=<checkpoint>")
        self.calibration = read_calibration(calibration) if calibration is not None else {}
        self.min_confidence = min_confidence
        self._around: dict[int, Target] = {}
        networks = {"teacher": teacher, "refiner": refiner}
        self.made_with = {name: file_hash(path) for name, path in networks.items() if isinstance(path, str)}
        self.test_score = PropagationScore(num_classes, methods)
        self.not_finite = {"flow": self.flow.not_finite, "teacher": NotFinite(), "refiner": NotFinite()}

    def label(self, method: str, target: Target) -> Labels:
        """Labels (H, W) uint8 and confidence (H, W) float32 of one frame by one method.

        Raises:
            WrpError: If the target is not of the interval that :meth:`targets` has begun last.
        """
        if target.around is not self._around:
            raise WrpError(
                f"frame {target.index} is not of the interval that targets() has begun last; ask for one interval at a "
                "time, or make a PropagationModule for each"
            )
        propagator = self.chosen[method]
        if target.unlabelled and propagator.takes_anchors:  # what networks might say there comes from no label
            size = target.frame.shape[1:]
            unknown = torch.full(size, IGNORE_INDEX, dtype=torch.uint8, device=target.frame.device)
            return unknown, torch.zeros(size, device=target.frame.device)
        labels, confidence = propagator.label(self, target)
        if method in self.calibration:
            line = self.calibration[method]
            # The teacher is as sure near an anchor as far from it.
            distance = target.distance_to(propagator.anchors) if propagator.takes_anchors else line.distance
            confidence = line(confidence, distance)
        return labels, confidence

    @torch.no_grad()
    def calibrate(self, held_out: Iterable[ClipBatch]) -> None:
        """Make confidence the probability that the label is right, from anchors whose label is known but not used.

        Args:
            held_out: Stretches between two anchors with a third one, between them, among their hidden labels.
        """
        self.calibration = {}
        self.calibration = fit_confidence([self.count_confidence(batch) for batch in held_out], self.methods)

    @torch.no_grad()
    def count_confidence(self, batch: ClipBatch) -> ConfidenceCounts:
        """What one stretch contributes to :meth:`calibrate`.

        Args:
            batch: A stretch between two anchors with a third one, between them, among its hidden labels.
        """
        score = PropagationScore(self.num_classes, self.methods).to(self.device)
        distances: dict[str, list[int]] = {method: [] for method in self.methods}
        for index, labels, truth in self.at_hidden(move_data_to_device(batch, self.device)):
            score.update_frame(labels, truth)
            for method, propagator in self.chosen.items():
                distances[method].append(distance_to(propagator.anchors, batch.labels, index))
        return counts_of(score, self.methods, distances)

    @torch.no_grad()
    def targets(self, batch: ClipBatch) -> Iterator[tuple[int, Target | None]]:
        """Index and knowledge of each frame of an interval in temporal order; None at the anchors. One at a time."""
        around: dict[int, Target] = {}
        self._around = around  # of the interval whose state the propagators hold
        for found in self.not_finite.values():
            found.take()  # what was counted before this interval, as in training
        for propagator in self.chosen.values():
            propagator.begin(self, batch)
        reach = max(propagator.reach for propagator in self.chosen.values())
        coming: deque[tuple[int, Target | None]] = deque()
        try:
            for index, evidence in self._evidence(batch):
                target = None
                if index not in batch.labels:
                    target = Target(
                        *(batch.frame(index), index, batch.labels, evidence, self.semantic, around), batch.unlabelled
                    )
                    around[index] = target
                coming.append((index, target))
                if len(coming) > reach:
                    yield from _next(coming, around, reach)
            while coming:
                yield from _next(coming, around, reach)
        finally:
            around.clear()
            if self._around is around:
                for propagator in self.chosen.values():
                    propagator.end()
        self._check_finite(batch)

    def _check_finite(self, batch: ClipBatch) -> None:
        """Stop where networks or flow yield what is not finite; those pixels have got no label from them."""
        where = f"clip {batch.clip}, frames {batch.stems[0]} … {batch.stems[-1]}"
        for part, found in self.not_finite.items():
            count, share = found.take()
            if part == "flow" and self.flow.sparse:
                continue
            if share > MOST_NOT_FINITE:
                raise WrpError(
                    f"{where}: {100 * share:.1f} % of the {part}'s values are not finite, more than "
                    f"{100 * MOST_NOT_FINITE:.0f} %; look at these frames, use another {part}, or --trainer.precision "
                    "32 if it is less"
                )
            if count:
                logger.warning("%s: %d pixels of the %s are not finite and count as unknown", where, count, part)

    @torch.no_grad()
    def at_hidden(self, batch: ClipBatch) -> Iterator[tuple[int, dict[str, Labels], Truth]]:
        """Index, labels by every method, and truth of the frames of an interval whose truth is hidden."""
        for index, target in self.targets(batch):
            if target is None:
                continue
            if index in batch.hidden:
                labels = {method: self.label(method, target) for method in self.methods}
                error = None if target.evidence is None else motion_error(target.evidence)
                yield index, labels, Truth(batch.hidden[index], target.distance, error)

    def _evidence(self, batch: ClipBatch) -> Iterator[tuple[int, Evidence | None]]:
        if any(propagator.needs_motion for propagator in self.chosen.values()):
            return walk_interval(batch, self.flow)
        return ((index, None) for index in range(*batch.targets))

    def semantic(self, frame: Tensor) -> Tensor:
        """The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8; zeros where it knows nothing."""
        probs = semantic_probabilities(self.teacher, frame, self.num_classes)
        return probs.masked_fill(~self.not_finite["teacher"].known(probs, 0), 0.0)

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
        for index, target in self.targets(batch):
            name = (batch.clip, batch.stems[index - batch.first], index)
            if target is None:
                label = batch.labels[index]
                yield Propagated(*name, "anchor", label, (label != IGNORE_INDEX).float(), (index,), 0)
                continue
            for method in self.methods:
                labels, confidence = self.label(method, target)
                labels, confidence = hide_unsure(labels, confidence, self.min_confidence)
                source = target.who_says(labels) if method == self.methods[-1] else None
                which = self.chosen[method].anchors
                asked, distance = asked_anchors(which, target.anchors), target.distance_to(which)
                yield Propagated(*name, method, labels, confidence, tuple(asked), distance, source)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the hidden frames of an interval."""
        for _, labels, truth in self.at_hidden(_interval(batch)):
            self.test_score.update_frame(labels, truth)

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        for method, score in self.test_score.compute().items():
            if score["frames"]:
                logged = {key: score.get(key) for key in ("miou", *OTHER_SCORES)}
                logged |= {f"miou_{distance}": miou for distance, miou in score["by_distance"].items()}
                for key, value in logged.items():
                    if value is not None:  # as where a hidden label has no class
                        self.log(f"test/{method}/{key}", value)
        self.test_score.reset()

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""


def _next(
    coming: deque[tuple[int, Target | None]], around: dict[int, Target], reach: int
) -> Iterator[tuple[int, Target | None]]:
    """The target whose turn it is; afterwards, what nobody asks for again is let go."""
    index, target = coming.popleft()
    yield index, target
    around.pop(index - reach, None)
    if target is not None:
        vars(target).pop("semantic", None)


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
