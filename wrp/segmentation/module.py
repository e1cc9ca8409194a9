"""Training a segmentation network on labelled frames: the teacher, the student, or a network for images."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from wrp.errors import WrpError
from wrp.flow.cache import FlowCache, cached
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import argmax_with_confidence, resize_labels
from wrp.io.checkpoints import load_module
from wrp.metrics.calibration import CalibrationError
from wrp.metrics.segmentation import SegmentationScore, mean_iou
from wrp.metrics.temporal import TemporalConsistency
from wrp.module import BaseModule
from wrp.options import InferenceArgs, NetworkArgs, OptimizerArgs, as_options
from wrp.segmentation.inference import tiled_probabilities
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.network import create_segmenter
from wrp.structures import IGNORE_INDEX, ClipBatch, FrameBatch, Prediction


class SegmentationModule(BaseModule):
    """Semantic segmentation by any architecture of segmentation-models-pytorch and any of its or timm's encoders.

    Logs ``train/loss``, ``val/miou`` and ``test/miou`` (in [0, 1], one confusion matrix over all pixels of all frames;
    classes absent from truth and prediction are NaN and left out), the IoU of each class and, in tests, the expected
    calibration error ``test/ece``. Trained on a :class:`~wrp.structures.FrameBatch`, which
    :class:`~wrp.SegmentationData` serves; with :class:`~wrp.PropagationData` a test scores whole clips, and
    ``test/temporal_consistency`` as well.

    Args:
        num_classes: Number of classes C.
        network: The network by name.
        optimizer: How it is optimised.
        inference: Windows, scales and mirror images from which labels are decided in evaluation.
        loss: From logits (B, C, H, W), labels (B, H, W) uint8 and how much each pixel counts, (B, H, W) float32 or
            None, to a scalar; None: :class:`~wrp.segmentation.losses.SegmentationLoss`, cross-entropy alone.
        auxiliary: Weight of the losses of auxiliary logits, where the network has any.
        pseudo_labeler: Checkpoint of a SegmentationModule, or the module, that labels what comes without a label while
            this one learns (data with ``unlabelled``); frozen.
        pseudo_label_threshold: Guesses that are less confident do not count; others count by their confidence.
        compile_net: Whether to compile the network in place.
        net: A network of your own instead: images (B, 3, H, W) float32 in [0, 1] to logits (B, C, H, W), in training a
            tuple of them where there are auxiliary ones.

    Raises:
        WrpError: If a name is unknown or weights cannot be downloaded.
    """

    methods = ("semantic",)
    frozen = ("flow", "pseudo_labeler")

    def __init__(
        self,
        num_classes: int,
        network: NetworkArgs | None = None,
        optimizer: OptimizerArgs | None = None,
        inference: InferenceArgs | None = None,
        loss: nn.Module | None = None,
        auxiliary: float = 0.4,
        pseudo_labeler: str | nn.Module | None = None,
        pseudo_label_threshold: float = 0.8,
        compile_net: bool = False,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer)
        self.network = as_options(NetworkArgs, network)
        self.save_arguments("net", "loss", "inference", "compile_net", "pseudo_labeler")
        # Weights are those of the checkpoint; what was downloaded before it was trained is not asked for again.
        self.save_hyperparameters({"network": asdict(replace(self.network, encoder_weights=None))})
        self.num_classes = num_classes
        self.inference = as_options(InferenceArgs, inference)
        self.criterion = loss if loss is not None else SegmentationLoss()
        self.auxiliary = auxiliary
        self.pseudo_labeler: Any = load_segmenter(pseudo_labeler, num_classes)
        if self.pseudo_labeler is not None:
            self.freeze_part("pseudo_labeler")
            self.labels_seen |= getattr(self.pseudo_labeler, "labels_seen", frozenset())
        self.pseudo_label_threshold = pseudo_label_threshold
        self.net = net if net is not None else self.configure_network()
        if self.optimizer.encoder_lr == 0:
            self.backbone.requires_grad_(False).eval()
        if compile_net:
            self.net.compile()
        self.val_score, self.test_score = self.configure_score(), self.configure_score()
        self.calibration = CalibrationError(num_classes)
        self.consistency = TemporalConsistency(num_classes)
        self.flow: FlowCache | None = None

    def configure_network(self) -> nn.Module:
        """Make the network; override it for one of your own."""
        return create_segmenter(self.num_classes, self.network)

    def configure_flow(self) -> FlowEstimator:
        """Make the flow estimator by which tests find how consistent the labels of neighbouring frames are."""
        return DIS()

    def configure_score(self) -> SegmentationScore:
        """Make the metric of validation and of test."""
        return SegmentationScore(self.num_classes)

    @property
    def backbone(self) -> nn.Module:
        """The encoder, as Lightning's BackboneFinetuning and the learning rates ask for it."""
        backbone: nn.Module = self.net.encoder  # type: ignore[assignment]
        return backbone

    @property
    def inference_model(self) -> nn.Module:
        """The network that predicts."""
        return self.net

    def encoders(self) -> list[nn.Module]:
        """The encoder, and those of further heads, which learn as it does."""
        return [self.backbone]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder's parameters with their own learning rates, and the others."""
        if self.optimizer.encoder_lr == self.optimizer.layer_decay == 1.0:
            return super().parameter_groups()
        args, groups = self.optimizer, list[dict[str, Any]]()
        left = {id(parameter): parameter for parameter in self.parameters() if parameter.requires_grad}
        for encoder in self.encoders():
            # timm's encoders keep their layers in a network inside.
            children = getattr(encoder, "model", encoder).children()
            layers = [part for part in children if next(part.parameters(), None) is not None]
            # What belongs to no layer of the encoder, such as a class token, learns like its first one.
            for depth, part in [*enumerate(reversed(layers)), (max(0, len(layers) - 1), encoder)]:
                mine = [left.pop(id(parameter)) for parameter in part.parameters() if id(parameter) in left]
                groups.append({"params": mine, "lr": args.lr * args.encoder_lr * args.layer_decay**depth})
        return [group for group in ({"params": list(left.values())}, *groups) if group["params"]]

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays in evaluation mode, so that its statistics stay as well."""
        super().train(mode)
        if self.optimizer.encoder_lr == 0:
            for encoder in self.encoders():
                encoder.eval()
        return self

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of logits (B, C, H, W) against labels (B, H, W) uint8; override it for another.

        ``weights`` (B, H, W) float32 say how much each pixel counts; None: all the same.
        """
        loss: Tensor = self.criterion(logits, labels, weights)
        return loss

    def forward(self, images: Tensor) -> Any:
        """Logits (B, C, H, W) of images (B, 3, H, W) float32 in [0, 1]; see ``net`` for training."""
        return self.net(images)

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities p^S (B, C, H, W) float32 of frames (B, 3, H, W) uint8, see ``inference``."""
        return tiled_probabilities(self, to_unit(images), self.inference)

    @torch.no_grad()
    def label_source(self, batch: FrameBatch) -> tuple[Tensor, Tensor | None]:
        """Labels (B, H, W) uint8 to learn from and how much each pixel counts, (B, H, W) float32 or None: all the same.

        Those of the batch, and the pseudo_labeler's where there is none; override it for another source.

        Raises:
            WrpError: If frames come without a label and there is no pseudo_labeler.
        """
        if self.pseudo_labeler is None and batch.unlabelled:
            raise WrpError(
                "unlabelled images come without labels and nobody guesses them: pass data.init_args.pseudo, a folder "
                "of labels, or model.init_args.pseudo_labeler, a checkpoint"
            )
        if self.pseudo_labeler is None or batch.weights is None:
            return batch.labels, batch.weights
        pseudo, confidence = argmax_with_confidence(self.pseudo_labeler.probabilities(batch.images))
        missing = (batch.labels == IGNORE_INDEX) & (batch.weights > 0)
        pseudo = pseudo.masked_fill(confidence < self.pseudo_label_threshold, IGNORE_INDEX)
        return torch.where(missing, pseudo, batch.labels), torch.where(missing, confidence, batch.weights)

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        given = self(to_unit(_frames(batch).images))
        main, *auxiliary = given if isinstance(given, tuple) else (given,)
        # A network may learn at its working resolution.
        size = (main.shape[-2], main.shape[-1])
        labels, weights = self.label_source(batch)
        labels = resize_labels(labels, size)
        weights = None if weights is None else resize_labels(weights, size)
        loss = self.loss(main, labels, weights)
        for logits in auxiliary:
            loss = loss + self.auxiliary * self.loss(logits, labels, weights)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.stems))
        return loss

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Count one batch into the validation score."""
        self._score(self.val_score, batch)

    def test_step(self, batch: FrameBatch | ClipBatch, batch_idx: int) -> None:
        """Count one batch, or the frames and neighbours of an interval, into the test scores."""
        if isinstance(batch, ClipBatch):
            self._test_interval(batch)
        else:
            self._score(self.test_score, batch, self.calibration)

    def _test_interval(self, batch: ClipBatch) -> None:
        if self.flow is None:  # no other use of the module needs any
            self.flow = cached(self.configure_flow().to(self.device))
        start, stop = batch.queries
        last = batch.first + len(batch.frames) - 1
        previous: Tensor | None = None
        # One frame beyond the interval: each pair of neighbours belongs to the interval of the earlier one.
        for index in range(start, min(stop, last) + 1):
            probs = self.probabilities(batch.frame(index)[None])
            labels, confidence = argmax_with_confidence(probs)
            if index in batch.held_out and index < stop:
                truth = batch.held_out[index][None]
                self.test_score.update(labels, truth)
                self.calibration.update(labels, confidence, truth)
            if previous is not None:
                [pair] = self.flow.between(batch, [index - 1])
                self.consistency.update(previous, labels[0], pair.flow_bw)
            previous = labels[0]

    def predict_step(self, batch: FrameBatch, batch_idx: int) -> list[Prediction]:
        """Label every frame of a batch."""
        labels, confidence = argmax_with_confidence(self.probabilities(_frames(batch).images))
        names = zip(batch.clips, batch.stems, batch.indices, strict=True)
        return [
            Prediction(clip, stem, index, self.methods[-1], labels[i], confidence[i])
            for i, (clip, stem, index) in enumerate(names)
        ]

    def on_validation_epoch_end(self) -> None:
        """Log the validation score."""
        self._log_score("val", self.val_score)

    def on_test_epoch_end(self) -> None:
        """Log the test scores."""
        self._log_score("test", self.test_score)
        for name, score in (("ece", self.calibration), ("temporal_consistency", self.consistency)):
            with warnings.catch_warnings():
                # Single frames have no neighbours to be consistent with; a process may be without, others not.
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                value = score.compute().float()
            if not value.isnan():
                self.log(f"test/{name}", value)
            score.reset()

    def _score(self, score: SegmentationScore, batch: FrameBatch, calibration: CalibrationError | None = None) -> None:
        labels, confidence = argmax_with_confidence(self.probabilities(_frames(batch).images))
        score.update(labels, batch.labels)
        if calibration is not None:
            calibration.update(labels, confidence, batch.labels)

    def _log_score(self, stage: str, score: SegmentationScore) -> None:
        # Both from one synchronised matrix; `compute` would synchronise it by itself, and only for its own result.
        with score.sync_context(should_sync=torch.distributed.is_available() and torch.distributed.is_initialized()):
            self.log(f"{stage}/miou", mean_iou(score.matrix).float(), prog_bar=True)
            for index, iou in enumerate(score.per_class()):
                self.log(f"{stage}/iou_{index}", iou.float())
        score.reset()


def load_segmenter(teacher: str | nn.Module | None, num_classes: int) -> Any:
    """A teacher from its checkpoint, or the module as it is; WrpError if it knows another number of classes."""
    if teacher is None:
        return None
    module: Any = load_module(SegmentationModule, teacher) if isinstance(teacher, str) else teacher
    if module.num_classes != num_classes:
        raise WrpError(f"the teacher {teacher} knows {module.num_classes} classes, expected {num_classes}")
    return module


def _frames(batch: FrameBatch) -> FrameBatch:
    if isinstance(batch, dict):
        raise WrpError(
            "SegmentationModule learns from all labels alike, got batches that keep two kinds apart: set "
            "data.init_args.propagated.init_args.apart=false, or use a module of wrp.selftraining"
        )
    if not isinstance(batch, FrameBatch):
        raise WrpError(
            f"SegmentationModule learns from single frames, got a {type(batch).__name__}: use --data SegmentationData"
        )
    return batch
