"""Training a segmentation network on labelled frames: the teacher, the student, or a network for images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wrp.losses.segmentation import cross_entropy_dice
from wrp.metrics.segmentation import SegmentationScore
from wrp.models.segmenter import create_segmenter
from wrp.modules.base import BaseModule
from wrp.ops.consistency import to_unit
from wrp.ops.labels import decide, resize_labels
from wrp.types import FrameBatch, Propagated, WrpError


class SegmentationModule(BaseModule):
    """Semantic segmentation by any architecture of segmentation-models-pytorch and any of its or timm's encoders.

    Logs ``train/loss``, ``val/miou`` and ``test/miou`` (in [0, 1], one confusion matrix over all pixels of all frames)
    and the IoU of each class. Trained on a :class:`~wrp.types.FrameBatch`, as the data modules serve it with
    ``serve: frames``.

    Args:
        num_classes: Number of classes C.
        architecture: Name in segmentation-models-pytorch.
        encoder: Name of an encoder there, or ``tu-`` and a name of timm's.
        weights: Encoder weights, e.g. ``imagenet``; None to start from scratch.
        scale: Working resolution of the network: 0.5 is about four times as fast, and blurs what is thin.
        options: Further arguments of the architecture, e.g. ``{"decoder_pyramid_channels": 64}`` of ``FPN``.
        dice: Weight of the Dice loss beside cross-entropy.
        optimizer: ``adamw`` or ``sgd``.
        lr: Learning rate at the start of the "poly" schedule.
        weight_decay: Weight decay.
        net: A network of your own instead: images (B, 3, H, W) float32 in [0, 1] to logits (B, C, H, W).

    Raises:
        WrpError: If a name is unknown or weights cannot be downloaded.
    """

    methods = ("semantic",)

    def __init__(
        self,
        num_classes: int,
        architecture: str = "FPN",
        encoder: str = "resnet18",
        weights: str | None = None,
        scale: float = 1.0,
        options: dict[str, Any] | None = None,
        dice: float = 0.0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer, lr, weight_decay)
        self.save_hyperparameters(ignore=["net", "weights"])
        self.num_classes = num_classes
        self.architecture = architecture
        self.encoder = encoder
        self.weights = weights
        self.scale = scale
        self.options = options
        self.dice = dice
        self.net = net if net is not None else self.configure_network()
        self.val_score, self.test_score = self.configure_score(), self.configure_score()

    def configure_network(self) -> nn.Module:
        """Make the network; override it for one of your own."""
        return create_segmenter(
            self.architecture, self.encoder, self.num_classes, self.weights, self.scale, self.options
        )

    def configure_score(self) -> SegmentationScore:
        """Make the metric of validation and of test."""
        return SegmentationScore(self.num_classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (B, C, H, W) against labels (B, H, W) uint8; override it for another."""
        return cross_entropy_dice(logits, labels, self.dice)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W) float32 in [0, 1]."""
        return self.net(images)

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities p^S (B, C, H, W) float32 of frames (B, 3, H, W) uint8."""
        return self(to_unit(images)).float().softmax(1)

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        logits = self(to_unit(_frames(batch).images))
        # A network may learn at its working resolution.
        loss = self.loss(logits, resize_labels(batch.labels, (logits.shape[-2], logits.shape[-1])))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.stems))
        return loss

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Count one batch into the validation score."""
        self._score(self.val_score, batch)

    def test_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Count one batch into the test score."""
        self._score(self.test_score, batch)

    def predict_step(self, batch: FrameBatch, batch_idx: int) -> list[Propagated]:
        """Label every frame of a batch."""
        labels, confidence = decide(self.probabilities(_frames(batch).images))
        names = zip(batch.clips, batch.stems, batch.indices, strict=True)
        return [
            Propagated(clip, stem, index, self.methods[-1], labels[i], confidence[i])
            for i, (clip, stem, index) in enumerate(names)
        ]

    def on_validation_epoch_end(self) -> None:
        """Log the validation score."""
        self._log_score("val", self.val_score)

    def on_test_epoch_end(self) -> None:
        """Log the test score."""
        self._log_score("test", self.test_score)

    def _score(self, score: SegmentationScore, batch: FrameBatch) -> None:
        score.update(self(to_unit(_frames(batch).images)).argmax(1), batch.labels)

    def _log_score(self, stage: str, score: SegmentationScore) -> None:
        # Computed here rather than logged as an object: the class IoUs come from the same synchronised matrix.
        with score.sync_context(should_sync=score._to_sync and torch.distributed.is_initialized()):
            self.log(f"{stage}/miou", score.compute().float(), prog_bar=True, sync_dist=False)
            for index, iou in enumerate(score.per_class()):
                self.log(f"{stage}/iou_{index}", iou.float())
        score.reset()


def _frames(batch: FrameBatch) -> FrameBatch:
    if not isinstance(batch, FrameBatch):
        raise WrpError(
            f"SegmentationModule learns from single frames, got a {type(batch).__name__}: set "
            "data.init_args.serve=frames"
        )
    return batch
