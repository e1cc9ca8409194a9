"""Label propagation: label the frames between keyframes, the main task of the package."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wrp.errors import WrpError
from wrp.flow.cache import cached
from wrp.flow.estimator import FlowEstimator
from wrp.flow.presets import as_flow
from wrp.geometry.fusion import motion_error
from wrp.io.checkpoints import load_module, network_hash
from wrp.io.together import in_turns, processes, together
from wrp.metrics.calibration import LEVELS, pixels_by_level
from wrp.metrics.propagation import PropagationScore, Truth
from wrp.module import BaseModule
from wrp.propagation.audit import as_numbers, auditor, find_contradictions
from wrp.propagation.confidence import ConfidenceCounts, counts_of, fit_confidence, read_calibration
from wrp.propagation.methods import METHODS, make_methods
from wrp.propagation.methods.base import PropagationMethod, used_keyframes
from wrp.propagation.session import Networks, PropagationSession
from wrp.refinement.module import RefinementModule, teacher_probabilities
from wrp.segmentation.module import load_segmenter
from wrp.structures import ClipBatch

logger = logging.getLogger("wrp")

# The calibration that is fitted to the data.
AUTO = "auto"

# Frames that teacher and refiner take in one call on a GPU.
GPU_FRAMES = 8

# Scores that are logged in addition to mIoU.
OTHER_SCORES = ("miou_trimap", "miou_inside_error", "miou_outside_error", "ece")

Frame = tuple[dict[str, tuple[Tensor, Tensor]], Truth]
"""Labels and confidence of a held-out frame by method, and its ground truth."""


class PropagationModule(BaseModule):
    """Label propagation from both keyframes of an interval (:class:`~wrp.structures.ClipBatch`).

    :meth:`session` labels an interval, frame by frame. ``trainer.predict`` returns a session for each interval, which
    computes labels while it is iterated over, in the Trainer's precision; :class:`~wrp.callbacks.writer.LabelWriter`
    does so. ``trainer.validate`` and ``trainer.test`` score held-out frames. They log ``val/<method>/miou`` or
    ``test/<method>/miou``, ``miou_<distance>``, ``miou_trimap``, ``miou_inside_error``, ``miou_outside_error`` and
    ``ece``, all in percent; if both ``motion`` and ``semantic`` are among the methods, also those of their per-pixel
    best, ``upper_bound``. If an interval is long, its flow and warped labels are kept on disk.

    Args:
        num_classes: Number of classes C.
        methods: The methods to compute: ``copy``, ``motion``, ``vote-once``, ``vote``, ``semantic``, ``inpaint`` and
            ``refine``, see :mod:`wrp.propagation.methods`. They use the keyframes on both sides. With ``:previous`` or
            ``:nearest`` appended, e.g. ``motion:previous``, all but ``semantic`` use the earlier keyframe or, at each
            pixel, the nearest one. The last method listed makes the result. Subclasses add methods to
            :attr:`known_methods`.
        teacher: Checkpoint of a SegmentationModule, or the module; needed by ``semantic``, ``inpaint`` and ``refine``.
        refiner: Checkpoint of a RefinementModule, or the module; needed by ``refine``.
        flow: Flow estimator, or its name in :data:`~wrp.flow.presets.PRESETS`; None: DIS.
        calibration: JSON file of a calibration, such as a run's ``calibration.json``; ``auto``: it is fitted on the
            keyframes of the data that lie between two others, before a validation, test or prediction; None: the
            confidence is the label's probability mass.
        min_confidence: Labels with a lower confidence, in [0, 1], are predicted as 255; tests score all labels.
        frames_per_call: Frames that teacher and refiner take in one call; None: 1 on the CPU, 8 on a GPU. More use a
            GPU better, and its memory holds as many more frames; take fewer where it is short.

    Raises:
        WrpError: If a method is unknown, lacks its network or cannot work from its keyframes, a checkpoint does not
            fit, or a number is out of its range.

    Example:
        >>> module = PropagationModule(2, methods=["copy", "motion:nearest"])
        >>> module.methods, module.checkpoint_hashes
        (['copy', 'motion:nearest'], {})
    """

    frozen = ("teacher", "refiner", "flow")
    known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = METHODS

    def __init__(
        self,
        num_classes: int,
        methods: Sequence[str] = ("motion",),
        teacher: str | nn.Module | None = None,
        refiner: str | nn.Module | None = None,
        flow: FlowEstimator | str | None = None,
        calibration: str | None = None,
        min_confidence: float = 0.0,
        frames_per_call: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= min_confidence <= 1:
            raise WrpError(f"min_confidence must be in [0, 1], got {min_confidence}")
        if frames_per_call is not None and frames_per_call < 1:
            raise WrpError(f"frames_per_call must be at least 1, or None for 1 on the CPU, got {frames_per_call}")
        methods = [methods] if isinstance(methods, str) else list(methods)
        self.chosen = make_methods(methods, self.known_methods)
        passed = [name for name, value in (("teacher", teacher), ("refiner", refiner)) if isinstance(value, nn.Module)]
        self.save_hyperparameters(ignore=["flow", *passed])
        self.num_classes = num_classes
        self.methods = methods
        self.flow = cached(as_flow(flow))
        self.teacher = load_segmenter(teacher, num_classes)
        self.refiner = load_refiner(refiner, num_classes)
        for part in ("teacher", "refiner"):
            wanting = [name for name, method in self.chosen.items() if getattr(method.needs, part)]
            if getattr(self, part) is not None:
                self.freeze_part(part)
            elif wanting:
                raise WrpError(f"method {wanting[0]!r} needs a {part}: pass {part}=<checkpoint>")
        self.calibrates = calibration == AUTO
        self.calibration = {} if calibration is None or self.calibrates else read_calibration(calibration)
        self.min_confidence = min_confidence
        self.frames_per_call = frames_per_call
        learned_with = getattr(self.refiner, "flow_signature", "")
        if learned_with not in ("", self.flow.signature):
            logger.warning(
                "the refiner has learned the errors of the flow %r, labels are propagated along %r: expect worse "
                "labels, or train a refiner with this flow",
                learned_with,
                self.flow.signature,
            )
        networks = {"teacher": teacher, "refiner": refiner}
        self.checkpoint_hashes = {name: network_hash(path) for name, path in networks.items() if isinstance(path, str)}
        for network in (self.teacher, self.refiner):
            self.labels_seen |= getattr(network, "labels_seen", frozenset())
        self.score = PropagationScore(num_classes, methods)

    def setup(self, stage: str) -> None:
        """Refuse a precision of the Trainer that rounds positions.

        Raises:
            WrpError: If it is ``bf16-true`` or ``16-true``.
        """
        super().setup(stage)
        if self.trainer.precision.endswith("16-true"):
            raise WrpError(
                "labels are warped along flow in float32, whose positions "
                f"precision={self.trainer.precision} would round: use bf16-mixed, 16-mixed or 32-true"
            )

    def session(self, interval: ClipBatch, only: Collection[int] | None = None) -> PropagationSession:
        """Make a session that labels an interval by every method, in temporal order, keyframes included.

        All work is done while iterating over the session. Several sessions may run at once.

        Args:
            interval: The interval to label.
            only: Indices in the clip of the frames to label; None: all.

        Raises:
            WrpError: If ``interval`` is not a ClipBatch.

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
            self.frames_per_call or (1 if self.device.type == "cpu" else GPU_FRAMES),
        )
        return PropagationSession(interval, self.chosen, networks, self.calibration, least, only, self._precision)

    def _precision(self) -> AbstractContextManager[Any]:
        """Return the context manager of the Trainer's precision; without a Trainer, an empty one."""
        return nullcontext() if self._trainer is None else self._trainer.precision_plugin.predict_step_context()

    def teacher_probs(self, frames: Tensor) -> Tensor:
        """Compute the teacher's probabilities (…, C, H, W) float32 of one frame or several, (…, 3, H, W) uint8."""
        return teacher_probabilities(self.teacher, frames, self.num_classes)

    @torch.no_grad()
    def calibrate(self, held_out: Iterable[ClipBatch]) -> None:
        """Fit the calibration: confidence becomes the probability that the label is right.

        Args:
            held_out: Intervals between two keyframes, each with a third, held-out keyframe between them.
        """
        self.calibration = {}
        self.calibration = fit_confidence([self.count_confidence(batch) for batch in held_out], self.methods)

    @torch.no_grad()
    def count_confidence(self, batch: ClipBatch) -> ConfidenceCounts:
        """Count the pixels of one interval for :meth:`calibrate`.

        Args:
            batch: An interval between two keyframes with a third, held-out keyframe between them.

        Returns:
            The counts by method, and where the held-out label contradicts what its neighbours say of it.
        """
        score = PropagationScore(self.num_classes, self.methods).to(self.device)
        levels = {name: torch.zeros(2, LEVELS, dtype=torch.long, device=self.device) for name in self.methods}
        audits = auditor(self.chosen)
        contradictions: list[int] = []
        for labels, truth in self.at_held_out(batch):
            score.update_frame(labels, truth)
            for name, (prediction, confidence) in labels.items():
                levels[name] += pixels_by_level(prediction, confidence, truth.labels)
            other, sure = labels[audits]
            found = find_contradictions(truth.labels.cpu().numpy(), other.cpu().numpy(), sure.cpu().numpy())
            contradictions += as_numbers(found)
        distances = {
            name: [
                min(abs(index - keyframe) for keyframe in used_keyframes(method.keyframes, batch.labels))
                for index in sorted(batch.held_out)
            ]
            for name, method in self.chosen.items()
        }
        return counts_of(score, self.methods, distances, levels, {audits: contradictions})

    def at_held_out(self, batch: ClipBatch) -> Iterator[Frame]:
        """Label only the held-out frames of an interval, without the confidence threshold.

        Yields:
            For each of them, labels (H, W) uint8 and confidence (H, W) float32 by method, and its truth.
        """
        for frame in self._session(batch, batch.held_out, 0.0).frames():
            if frame.known is None:
                continue
            made = frame.predictions
            labels = {method: (made[method].labels, made[method].confidence) for method in self.methods}
            error = None if frame.known.warped is None else motion_error(frame.known.warped)
            truth = batch.held_out[frame.known.index].to(frame.known.image.device)
            distance = min(abs(frame.known.index - keyframe) for keyframe in batch.labels)
            yield labels, Truth(truth, distance, error)

    def on_validation_start(self) -> None:
        """Calibrate the confidence, if it is to be fitted to the data."""
        self._calibrate()

    def on_test_start(self) -> None:
        """Calibrate the confidence, if it is to be fitted to the data."""
        self._calibrate()

    def on_predict_start(self) -> None:
        """Calibrate the confidence, if it is to be fitted to the data."""
        self._calibrate()

    def _calibrate(self) -> None:
        """Fit the calibration to keyframes of the data module; the processes take turns with them."""
        if not self.calibrates:
            return
        items = getattr(getattr(self.trainer, "datamodule", None), "calibration_items", None)
        if items is None:
            raise WrpError(
                f"calibration={AUTO} is fitted to the keyframes of PropagationData, got other data: pass the file of a "
                "calibration"
            )
        held_out, (count, rank) = items(), processes()
        if not len(held_out):
            logger.info("The confidence is not calibrated: no clip has three labelled frames")
        self.calibration = {}  # what is counted is the confidence as it is
        mine = range(rank, len(held_out), count)
        counted = together(lambda: [self.count_confidence(held_out[number]) for number in mine])
        self.calibration = fit_confidence(in_turns(counted), self.methods)

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> PropagationSession:
        """Make the session of an interval; labels are computed while it is iterated over."""
        return self.session(batch)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the held-out frames of an interval."""
        for labels, truth in self.at_held_out(batch):
            self.score.update_frame(labels, truth)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Score the held-out frames of an interval."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        with warnings.catch_warnings():  # one process of several may have had no frames
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            found = self.score.compute()
        if not any(score["frames"] for score in found.values()):
            logger.warning("There is nothing to score, as no label is held out: see data.init_args.select.label_every")
        for method, score in found.items():
            if score["frames"]:
                logged = {key: score.get(key) for key in ("miou", *OTHER_SCORES)}
                logged |= {f"miou_{distance}": miou for distance, miou in score["by_distance"].items()}
                for key, value in logged.items():
                    if value is not None:  # None where a held-out label has no class
                        # With sync_dist, as Lightning does not know that all processes have the same value already.
                        self.log(f"{stage}/{method}/{key}", value, sync_dist=True)
        self.score.reset()

    def configure_optimizers(self) -> None:
        """Return no optimiser, as nothing is trained."""


def load_refiner(refiner: str | nn.Module | None, num_classes: int) -> nn.Module | None:
    """Load a refiner from its checkpoint.

    Args:
        refiner: Path of a checkpoint of a RefinementModule; a module is returned as it is, and so is None.
        num_classes: Number of classes C that the refiner must have.

    Raises:
        WrpError: If the checkpoint cannot be read, or the refiner has another number of classes.

    Example:
        >>> module = RefinementModule(3)
        >>> load_refiner(module, 3) is module, load_refiner(None, 3)
        (True, None)
    """
    if refiner is None:
        return None
    module = load_module(RefinementModule, refiner) if isinstance(refiner, str) else refiner
    if module.num_classes != num_classes:
        raise WrpError(f"the refiner {refiner} knows {module.num_classes} classes, expected {num_classes}")
    return module
