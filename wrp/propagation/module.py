"""Labelling the frames between the keyframes: the main job."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wrp.errors import WrpError
from wrp.flow.cache import cached
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.geometry.fusion import motion_error
from wrp.io.checkpoints import load_module
from wrp.metrics.propagation import PropagationScore, Truth
from wrp.module import BaseModule, file_hash
from wrp.propagation.confidence import ConfidenceCounts, counts_of, fit_confidence, read_calibration
from wrp.propagation.methods import METHODS, make_methods
from wrp.propagation.methods.base import PropagationMethod, used_keyframes
from wrp.propagation.session import Networks, PropagationSession
from wrp.refinement.module import RefinementModule, teacher_probabilities
from wrp.segmentation.module import load_segmenter
from wrp.structures import ClipBatch

# Scores that are logged beside mIoU.
OTHER_SCORES = ("miou_trimap", "miou_inside_error", "miou_outside_error", "ece")

Frame = tuple[dict[str, tuple[Tensor, Tensor]], Truth]
"""Labels and confidence of a held-out frame by method, and its truth."""


class PropagationModule(BaseModule):
    """Label propagation from both keyframes of an interval (:class:`~wrp.structures.ClipBatch`).

    :meth:`session` labels an interval, frame by frame. ``trainer.predict`` gives a session for each interval, which
    labels when it is iterated over, in the Trainer's precision; :class:`~wrp.callbacks.writer.LabelWriter` does that.
    ``trainer.test`` scores held-out frames and logs ``test/<method>/miou``, ``miou_<distance>``, ``miou_trimap``,
    ``miou_inside_error`` and ``miou_outside_error`` in percent and ``ece``, and the same of ``upper_bound`` where both
    motion and the teacher are among the methods. Flow and warped labels go to the disk when an interval is long.

    Args:
        num_classes: Number of classes C.
        methods: What to compute: ``copy``, ``motion``, ``vote-once``, ``vote``, ``semantic``, ``inpaint`` and
            ``refine``, see :mod:`wrp.propagation.methods`. They use both keyframes; ``motion:previous`` and
            ``motion:nearest`` use one, and so do the others but ``semantic``. The last one listed is the result.
            Subclasses add their own to :attr:`known_methods`.
        teacher: Checkpoint of a SegmentationModule, or the module; needed by the last three.
        refiner: Checkpoint of a RefinementModule, or the module; needed by the last one.
        flow: Flow estimator; None: DIS.
        calibration: JSON file of what :meth:`calibrate` has found; None: confidence is the label's probability mass.
        min_confidence: Labels that are less confident than this are predicted as 255; tests score all of them.

    Raises:
        WrpError: If a method is unknown, lacks its network or cannot work from its keyframes, or a checkpoint does not
            fit.
    """

    frozen = ("teacher", "refiner", "flow")
    known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = METHODS

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
        super().__init__()
        if not 0 <= min_confidence <= 1:
            raise WrpError(f"min_confidence must be in [0, 1], got {min_confidence}")
        methods = [methods] if isinstance(methods, str) else list(methods)
        self.chosen = make_methods(methods, self.known_methods)
        passed = [name for name, value in (("teacher", teacher), ("refiner", refiner)) if isinstance(value, nn.Module)]
        self.save_hyperparameters(ignore=["flow", *passed])
        self.num_classes = num_classes
        self.methods = methods
        self.flow = cached(flow if flow is not None else DIS())
        self.teacher = load_segmenter(teacher, num_classes)
        self.refiner = load_refiner(refiner, num_classes)
        for part in ("teacher", "refiner"):
            wanting = [name for name, method in self.chosen.items() if getattr(method.needs, part)]
            if getattr(self, part) is not None:
                self.freeze_part(part)
            elif wanting:
                raise WrpError(f"method {wanting[0]!r} needs a {part}: pass {part}=<checkpoint>")
        self.calibration = read_calibration(calibration) if calibration is not None else {}
        self.min_confidence = min_confidence
        networks = {"teacher": teacher, "refiner": refiner}
        self.checkpoint_hashes = {name: file_hash(path) for name, path in networks.items() if isinstance(path, str)}
        for network in (self.teacher, self.refiner):
            self.labels_seen |= getattr(network, "labels_seen", frozenset())
        self.test_score = PropagationScore(num_classes, methods)

    def session(self, interval: ClipBatch, only: Collection[int] | None = None) -> PropagationSession:
        """Make a session that labels an interval by every method, in temporal order, keyframes included.

        Nothing is done before it is iterated over; any number of sessions may be under way at once.

        Args:
            interval: What to label.
            only: Indices in the clip of the frames that are wanted; None: all.

        Example:
            >>> import torch
            >>> from wrp.structures import ClipBatch
            >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 3, torch.ones(8, 8, dtype=torch.uint8)
            >>> interval = ClipBatch("clip", ["a", "b", "c"], 0, frames, {0: label, 2: label}, (0, 3))
            >>> [prediction.method for prediction in PropagationModule(2, ["copy"]).session(interval)]
            ['keyframe', 'copy', 'keyframe']
        """
        return self._session(interval, only, self.min_confidence)

    def _session(self, interval: ClipBatch, only: Collection[int] | None, least: float) -> PropagationSession:
        if not isinstance(interval, ClipBatch):
            raise WrpError(
                f"PropagationModule labels intervals, got a {type(interval).__name__}: use --data PropagationData"
            )
        networks = Networks(
            self.num_classes,
            self.flow,
            self.teacher_probs if self.teacher is not None else None,
            self.refiner,
            lambda: self.device,
        )
        return PropagationSession(interval, self.chosen, networks, self.calibration, least, only, self._precision)

    def _precision(self) -> AbstractContextManager[Any]:
        """The Trainer's precision, where there is a Trainer."""
        return nullcontext() if self._trainer is None else self._trainer.precision_plugin.predict_step_context()

    def teacher_probs(self, frame: Tensor) -> Tensor:
        """The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8."""
        return teacher_probabilities(self.teacher, frame, self.num_classes)

    @torch.no_grad()
    def calibrate(self, held_out: Iterable[ClipBatch]) -> None:
        """Make confidence the probability that the label is right, from keyframes whose label is held out.

        Args:
            held_out: Stretches between two keyframes with a third one, between them, among their held-out labels.
        """
        self.calibration = {}
        self.calibration = fit_confidence([self.count_confidence(batch) for batch in held_out], self.methods)

    @torch.no_grad()
    def count_confidence(self, batch: ClipBatch) -> ConfidenceCounts:
        """Count what one stretch contributes to :meth:`calibrate`.

        Args:
            batch: A stretch between two keyframes with a third one, between them, among its held-out labels.
        """
        score = PropagationScore(self.num_classes, self.methods).to(self.device)
        for labels, truth in self.at_held_out(batch):
            score.update_frame(labels, truth)
        distances = {
            name: [
                min(abs(index - keyframe) for keyframe in used_keyframes(method.keyframes, batch.labels))
                for index in sorted(batch.held_out)
            ]
            for name, method in self.chosen.items()
        }
        return counts_of(score, self.methods, distances)

    def at_held_out(self, batch: ClipBatch) -> Iterator[Frame]:
        """Label the frames of an interval whose truth is hidden, and no others, whatever their confidence."""
        for frame in self._session(batch, batch.held_out, 0.0).frames():
            if frame.known is None:
                continue
            made = frame.predictions
            labels = {method: (made[method].labels, made[method].confidence) for method in self.methods}
            error = None if frame.known.warped is None else motion_error(frame.known.warped)
            truth = batch.held_out[frame.known.index].to(frame.known.image.device)
            distance = min(abs(frame.known.index - keyframe) for keyframe in batch.labels)
            yield labels, Truth(truth, distance, error)

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> PropagationSession:
        """Make the session of an interval, which labels when it is iterated over."""
        return self.session(batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the held-out frames of an interval."""
        for labels, truth in self.at_held_out(batch):
            self.test_score.update_frame(labels, truth)

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        for method, score in self.test_score.compute().items():
            if score["frames"]:
                logged = {key: score.get(key) for key in ("miou", *OTHER_SCORES)}
                logged |= {f"miou_{distance}": miou for distance, miou in score["by_distance"].items()}
                for key, value in logged.items():
                    if value is not None:  # as where a held-out label has no class
                        self.log(f"test/{method}/{key}", value)
        self.test_score.reset()

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""


def load_refiner(refiner: str | nn.Module | None, num_classes: int) -> nn.Module | None:
    """The refining network from a checkpoint of a RefinementModule, or of the module."""
    if refiner is None:
        return None
    module = load_module(RefinementModule, refiner) if isinstance(refiner, str) else refiner
    if module.num_classes != num_classes:
        raise WrpError(f"the refiner {refiner} knows {module.num_classes} classes, expected {num_classes}")
    return module
