"""Training of a segmentation network on labelled frames: a teacher, a student, or a network for single images."""

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

    It is trained on :class:`~wrp.structures.FrameBatch`, served by :class:`~wrp.SegmentationData`. It logs
    ``train/loss``, ``val/miou`` and ``test/miou`` (in [0, 1], from one confusion matrix over all pixels of all frames;
    classes absent from both truth and prediction are NaN and left out), the IoU of each class, ``val/iou_<index>`` and
    ``test/iou_<index>``, and the expected calibration error ``test/ece``. A test with :class:`~wrp.PropagationData`
    scores whole clips and also logs ``test/temporal_consistency``.

    Args:
        num_classes: Number of classes C.
        network: The network by name.
        optimizer: Optimiser and learning rates.
        inference: Sliding windows and test-time augmentation in evaluation.
        loss: Maps logits (B, C, H, W), labels (B, H, W) uint8 and pixel weights (B, H, W) float32 or None to a scalar;
            None: :class:`~wrp.segmentation.losses.SegmentationLoss`, i.e. cross-entropy.
        auxiliary: Weight of the loss of auxiliary logits, if the network has any.
        pseudo_labeler: Checkpoint of a SegmentationModule, or the module, that labels unlabelled frames during training
            (data with ``unlabelled``); frozen.
        pseudo_label_threshold: Pseudo-labels with a lower confidence are ignored; the others are weighted by their
            confidence.
        compile_net: Whether to compile the network in place.
        net: Your own network instead of ``network``: images (B, 3, H, W) float32 in [0, 1] to logits (B, C, H, W), or
            in training a tuple whose further elements are auxiliary logits.

    Raises:
        WrpError: If a name is unknown or weights cannot be downloaded.

    Example:
        >>> module = SegmentationModule(3, NetworkArgs("FPN", "tu-regnetx_002")).eval()
        >>> module.probabilities(torch.zeros(1, 3, 48, 64, dtype=torch.uint8)).shape
        torch.Size([1, 3, 48, 64])
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
        # A checkpoint brings its own weights: those that were downloaded before training are not needed again.
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
        """Make the network; override this method for another one."""
        return create_segmenter(self.num_classes, self.network)

    def configure_flow(self) -> FlowEstimator:
        """Make the flow estimator for the temporal consistency of tests."""
        return DIS()

    def configure_score(self) -> SegmentationScore:
        """Make the metric of validation and test."""
        return SegmentationScore(self.num_classes)

    @property
    def backbone(self) -> nn.Module:
        """The encoder; Lightning's BackboneFinetuning expects this name."""
        backbone: nn.Module = self.net.encoder  # type: ignore[assignment]
        return backbone

    @property
    def inference_model(self) -> nn.Module:
        """The network that makes predictions."""
        return self.net

    def encoders(self) -> list[nn.Module]:
        """Return all encoders with the encoder's learning rates: here one; subclasses may have several heads."""
        return [self.backbone]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Group the parameters: each layer of the encoder with its learning rate, and all others."""
        if self.optimizer.encoder_lr == self.optimizer.layer_decay == 1.0:
            return super().parameter_groups()
        args, groups = self.optimizer, list[dict[str, Any]]()
        left = {id(parameter): parameter for parameter in self.parameters() if parameter.requires_grad}
        for encoder in self.encoders():
            # timm's encoders keep their layers in an inner network.
            children = getattr(encoder, "model", encoder).children()
            layers = [part for part in children if next(part.parameters(), None) is not None]
            # Parameters outside all layers of the encoder, such as a class token, get the rate of the first layer.
            for depth, part in [*enumerate(reversed(layers)), (max(0, len(layers) - 1), encoder)]:
                mine = [left.pop(id(parameter)) for parameter in part.parameters() if id(parameter) in left]
                groups.append({"params": mine, "lr": args.lr * args.encoder_lr * args.layer_decay**depth})
        return [group for group in ({"params": list(left.values())}, *groups) if group["params"]]

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen encoder stays in evaluation mode, so that its statistics do not change."""
        super().train(mode)
        if self.optimizer.encoder_lr == 0:
            for encoder in self.encoders():
                encoder.eval()
        return self

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute the loss; override this method for another one.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W) uint8, 0 … C-1 and 255.
            weights: How much each pixel counts, (B, H, W) float32; None: all the same.

        Returns:
            Scalar.
        """
        loss: Tensor = self.criterion(logits, labels, weights)
        return loss

    def forward(self, images: Tensor) -> Any:
        """Compute logits (B, C, H, W) of images (B, 3, H, W) float32 in [0, 1]; in training, see ``net``."""
        return self.net(images)

    def probabilities(self, images: Tensor) -> Tensor:
        """Compute class probabilities p^S (B, C, H, W) float32 of frames (B, 3, H, W) uint8, see ``inference``."""
        return tiled_probabilities(self, to_unit(images), self.inference)

    @torch.no_grad()
    def label_source(self, batch: FrameBatch) -> tuple[Tensor, Tensor | None]:
        """Return the labels to train on: those of the batch, and pseudo-labels where it has none.

        Override this method for another source of labels.

        Returns:
            Labels (B, H, W) uint8, and how much each pixel counts, (B, H, W) float32; None: all the same.

        Raises:
            WrpError: If frames have no label and there is no pseudo-labeler.
        """
        if self.pseudo_labeler is None and batch.unlabelled:
            raise WrpError(
                "unlabelled images have no pseudo-labels: pass data.init_args.pseudo, a folder "
                "of labels, or model.init_args.pseudo_labeler, a checkpoint"
            )
        if self.pseudo_labeler is None or batch.weights is None:
            return batch.labels, batch.weights
        pseudo, confidence = argmax_with_confidence(self.pseudo_labeler.probabilities(batch.images))
        missing = (batch.labels == IGNORE_INDEX) & (batch.weights > 0)
        pseudo = pseudo.masked_fill(confidence < self.pseudo_label_threshold, IGNORE_INDEX)
        return torch.where(missing, pseudo, batch.labels), torch.where(missing, confidence, batch.weights)

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        """Compute and log the loss of one batch."""
        given = self(to_unit(_frames(batch).images))
        main, *auxiliary = given if isinstance(given, tuple) else (given,)
        # In training, logits may have the working resolution of the network.
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
        """Add one batch to the validation score."""
        self._score(self.val_score, batch)

    def test_step(self, batch: FrameBatch | ClipBatch, batch_idx: int) -> None:
        """Add one batch of frames, or one interval with its temporal consistency, to the test scores."""
        if isinstance(batch, ClipBatch):
            self._test_interval(batch)
        else:
            self._score(self.test_score, batch, self.calibration)

    def _test_interval(self, batch: ClipBatch) -> None:
        if self.flow is None:  # made here, as only this test needs one
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
                # Single frames have no temporal consistency, and one process of several may have had no frames.
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
        # Both scores come from one synchronised matrix; `compute` would synchronise it for its own result only.
        with score.sync_context(should_sync=torch.distributed.is_available() and torch.distributed.is_initialized()):
            self.log(f"{stage}/miou", mean_iou(score.matrix).float(), prog_bar=True)
            for index, iou in enumerate(score.per_class()):
                self.log(f"{stage}/iou_{index}", iou.float())
        score.reset()


def load_segmenter(teacher: str | nn.Module | None, num_classes: int) -> Any:
    """Load a teacher from its checkpoint.

    Args:
        teacher: Path of a checkpoint of a SegmentationModule; a module is returned as it is, and so is None.
        num_classes: Number of classes C that the teacher must have.

    Raises:
        WrpError: If the checkpoint cannot be read, or the teacher has another number of classes.

    Example:
        >>> module = SegmentationModule(3, NetworkArgs("FPN", "tu-regnetx_002"))
        >>> load_segmenter(module, 3) is module, load_segmenter(None, 3)
        (True, None)
    """
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
            "data.init_args.propagated.apart=false, or use a module of wrp.selftraining"
        )
    if not isinstance(batch, FrameBatch):
        raise WrpError(
            f"SegmentationModule learns from single frames, got a {type(batch).__name__}: use --data SegmentationData"
        )
    return batch
