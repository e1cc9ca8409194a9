"""Training of a segmentation network on labelled frames: a teacher, a student, or a network for single images."""

from __future__ import annotations

import logging
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
from wrp.io.checkpoints import (
    CLASSES_KEY,
    ENCODER_KEY,
    INFERENCE_KEY,
    classes_as_plain,
    classes_in,
    load_module,
    network_of,
)
from wrp.metrics.calibration import CalibrationError
from wrp.metrics.segmentation import SegmentationScore, mean_iou
from wrp.metrics.temporal import TemporalConsistency
from wrp.module import BaseModule
from wrp.options import InferenceArgs, NetworkArgs, OptimizerArgs, as_options
from wrp.segmentation.batches import as_frames
from wrp.segmentation.inference import tiled_probabilities
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.multiscale import SCALE_WEIGHT
from wrp.segmentation.network import create_segmenter
from wrp.structures import IGNORE_INDEX, ClipBatch, FrameBatch, LabelMap, Prediction

logger = logging.getLogger("wrp")


class SegmentationModule(BaseModule):
    """Semantic segmentation by any architecture of segmentation-models-pytorch and any of its or timm's encoders.

    It is trained on :class:`~wrp.structures.FrameBatch`, served by :class:`~wrp.SegmentationData`, or on batches
    ``{"image": …, "mask": …}`` of another data module, see :func:`~wrp.segmentation.batches.as_frames`. It logs
    ``train/loss`` and, all in percent, ``val/miou`` and ``test/miou`` (from one confusion matrix over all pixels of all
    frames; classes absent from both truth and prediction are NaN and left out), the IoU of each class by the name that
    it has in the data, ``val/iou_<class>`` and ``test/iou_<class>``, and the expected calibration error ``test/ece``.
    A test with :class:`~wrp.PropagationData` scores whole clips and also logs ``test/temporal_consistency``.

    Args:
        num_classes: Number of classes C.
        network: The network by name.
        optimizer: Optimiser and learning rates.
        inference: Sliding windows and test-time augmentation in evaluation; None: those of the checkpoint, if one is
            loaded, else the whole image once.
        loss: Maps logits (B, C, H, W), labels (B, H, W) uint8 and pixel weights (B, H, W) float32 or None to a scalar;
            None: :class:`~wrp.segmentation.losses.SegmentationLoss`, i.e. cross-entropy.
        auxiliary: Weight of the loss of auxiliary logits, if the network has any.
        pseudo_labeler: Checkpoint of a SegmentationModule, or the module, that labels unlabelled frames during training
            (data with ``unlabelled``); frozen.
        pseudo_label_threshold: Pseudo-labels with a lower confidence are ignored; the others are weighted by their
            confidence.
        compile_net: Whether to compile the network in place.
        net: Your own network instead of ``network``: images (B, 3, H, W) float32 in [0, 1] to logits (B, C, H, W), or
            in training a tuple whose further elements are auxiliary logits. Checkpoints hold its class, which is
            imported where the environment variable ``WRP_SAFE`` names its package, and its arguments if it has none or
            the command line made it.

    Attributes:
        encoder_weights: Where the weights came from that the encoder started from; empty: from scratch.
        label_map: The classes that it was trained on, from its checkpoint; None: they are not known.

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
        self._inference_given = inference is not None
        self.criterion = loss if loss is not None else SegmentationLoss()
        self.auxiliary = auxiliary
        self.pseudo_labeler: Any = load_segmenter(pseudo_labeler, num_classes)
        if self.pseudo_labeler is not None:
            self.freeze_part("pseudo_labeler")
            self.labels_seen |= getattr(self.pseudo_labeler, "labels_seen", frozenset())
        self.pseudo_label_threshold = pseudo_label_threshold
        self.encoder_weights = ""
        self.label_map: LabelMap | None = None
        self.save_network(net)
        self.net = network_of(net) or self.configure_network()
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
        net = create_segmenter(self.num_classes, self.network)
        if net.weights_origin:
            self.encoder_weights = net.weights_origin
            logger.info("The encoder %s starts from %s", self.network.encoder_name, net.weights_origin)
        return net

    def configure_flow(self) -> FlowEstimator:
        """Make the flow estimator for the temporal consistency of tests."""
        return DIS()

    def configure_score(self) -> SegmentationScore:
        """Make the metric of validation and test."""
        return SegmentationScore(self.num_classes)

    @property
    def backbone(self) -> nn.Module:
        """The encoder; Lightning's BackboneFinetuning expects this name."""
        encoder = getattr(self.net, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise WrpError(
                f"BackboneFinetuning, optimizer.encoder_lr and optimizer.layer_decay need an encoder: a "
                f"{type(self.net).__name__} has no attribute 'encoder'"
            )
        return encoder

    @property
    def inference_model(self) -> nn.Module:
        """The network that makes predictions."""
        return self.net

    def encoders(self) -> list[nn.Module]:
        """Return all encoders with the encoder's learning rates: here one; subclasses may have several heads."""
        return [self.backbone]

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
        return self.net(images.to(self.dtype))  # float32, but with the Trainer's precision bf16-true

    def probabilities(self, images: Tensor) -> Tensor:
        """Compute class probabilities p^S (B, C, H, W) float32 of frames, see ``inference``.

        Args:
            images: (B, 3, H, W), uint8 or floating point in [0, 1].

        Raises:
            WrpError: If the images are of another type.
        """
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
        batch = as_frames(batch, self.num_classes, batch_idx)
        given = self(to_unit(batch.images))
        main, *auxiliary = given if isinstance(given, tuple) else (given,)
        # In training, logits may have the working resolution of the network.
        size = (main.shape[-2], main.shape[-1])
        labels, weights = self.label_source(batch)
        labels = resize_labels(labels, size)
        weights = None if weights is None else resize_labels(weights, size)
        loss = self.loss(main, labels, weights)
        of_scales = len(auxiliary) - getattr(self.net, "single_scales", 0)
        for number, logits in enumerate(auxiliary):
            weight = self.auxiliary if number < of_scales else SCALE_WEIGHT
            loss = loss + weight * self.loss(logits, labels, weights)
        self.log_loss(loss, len(batch.stems))
        return loss

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Add one batch to the validation score."""
        self._score(self.val_score, batch, batch_idx)

    def test_step(self, batch: FrameBatch | ClipBatch, batch_idx: int) -> None:
        """Add one batch of frames, or one interval with its temporal consistency, to the test scores."""
        if isinstance(batch, ClipBatch):
            self._test_interval(batch)
        else:
            self._score(self.test_score, batch, batch_idx, self.calibration)

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
        batch = as_frames(batch, self.num_classes, batch_idx)
        labels, confidence = argmax_with_confidence(self.probabilities(batch.images))
        names = zip(batch.clips, batch.stems, batch.indices, strict=True)
        return [
            Prediction(clip, stem, index, self.methods[-1], labels[i], confidence[i])
            for i, (clip, stem, index) in enumerate(names)
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the classes, where the encoder's first weights came from, and how probabilities are computed, too."""
        super().on_save_checkpoint(checkpoint)
        if (label_map := self._label_map_of_data() or self.label_map) is not None:
            checkpoint[CLASSES_KEY] = classes_as_plain(label_map)
        checkpoint[ENCODER_KEY] = self.encoder_weights
        checkpoint[INFERENCE_KEY] = asdict(self.inference)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read what :meth:`on_save_checkpoint` records, too; how probabilities are computed, if not given."""
        super().on_load_checkpoint(checkpoint)
        self.label_map = classes_in(checkpoint)
        self.encoder_weights = str(checkpoint.get(ENCODER_KEY, ""))
        if not self._inference_given:
            # Not among the hyper-parameters, which on the command line win over what the user has written.
            self.inference = as_options(InferenceArgs, checkpoint.get(INFERENCE_KEY))

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
                value = (100 * score.compute()).float().to(self.device)
            if not value.isnan():
                self.log(f"test/{name}", value, sync_dist=True)
            score.reset()

    def class_names(self) -> list[str]:
        """Return the names of the classes in the Trainer's data module; without such, their indices."""
        label_map = self._label_map_of_data()
        return [str(index) for index in range(self.num_classes)] if label_map is None else list(label_map.names)

    def _label_map_of_data(self) -> LabelMap | None:
        """Return the classes of the Trainer's data module; None if it has none, or not as many as the network."""
        data = getattr(self._trainer, "datamodule", None)  # `trainer` raises an error where there is none
        label_map = getattr(data, "label_map", None)
        fits = isinstance(label_map, LabelMap) and label_map.num_classes == self.num_classes
        return label_map if fits else None

    def _score(
        self, score: SegmentationScore, batch: FrameBatch, batch_idx: int, calibration: CalibrationError | None = None
    ) -> None:
        batch = as_frames(batch, self.num_classes, batch_idx)
        labels, confidence = argmax_with_confidence(self.probabilities(batch.images))
        score.update(labels, batch.labels)
        if calibration is not None:
            calibration.update(labels, confidence, batch.labels)

    def _log_score(self, stage: str, score: SegmentationScore) -> None:
        # Both scores come from one synchronised matrix; `compute` would synchronise it for its own result only.
        with score.sync_context(should_sync=torch.distributed.is_available() and torch.distributed.is_initialized()):
            miou, of_classes = 100 * mean_iou(score.matrix), 100 * score.per_class()
        # With sync_dist, as Lightning does not know that all processes have the same values already.
        self.log(f"{stage}/miou", miou.float(), prog_bar=True, sync_dist=True)
        named = zip(self.class_names(), of_classes.float(), strict=True)
        self.log_dict({f"{stage}/iou_{name}": iou for name, iou in named}, sync_dist=True)
        score.reset()


def load_segmenter(teacher: str | nn.Module | None, num_classes: int) -> Any:
    """Load a teacher from its checkpoint.

    Args:
        teacher: Path of a checkpoint of a SegmentationModule; a module is returned as it is, and so is None.
        num_classes: Number of classes C that the teacher must have.

    Raises:
        WrpError: If the checkpoint cannot be read, or the module computes no probabilities or has another number of
            classes.

    Example:
        >>> module = SegmentationModule(3, NetworkArgs("FPN", "tu-regnetx_002"))
        >>> load_segmenter(module, 3) is module, load_segmenter(None, 3)
        (True, None)
    """
    if teacher is None:
        return None
    module: Any = load_module(SegmentationModule, teacher) if isinstance(teacher, str) else teacher
    if not hasattr(module, "num_classes") or not hasattr(module, "probabilities"):
        raise WrpError(
            f"a teacher has num_classes and probabilities(images), got a {type(module).__name__}: wrap a network as "
            "SegmentationModule(num_classes, net=…)"
        )
    if module.num_classes != num_classes:
        raise WrpError(f"the teacher {teacher} knows {module.num_classes} classes, expected {num_classes}")
    return module
