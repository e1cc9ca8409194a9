"""Training the refiner on the noise of propagation, seen where the truth is known (method, section 3)."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wrp.errors import WrpError
from wrp.geometry.labels import argmax_with_confidence
from wrp.io.checkpoints import load_module
from wrp.metrics.segmentation import SegmentationScore
from wrp.module import BaseModule
from wrp.options import OptimizerArgs, RefinerArgs, as_options
from wrp.refinement.network import Refiner, refined
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.module import SegmentationModule
from wrp.segmentation.network import EncoderView
from wrp.structures import Prediction, RefinerExamples, RefinerInput

# Features of the image from a decoder.
VIEW_CHANNELS = 16


class RefinementModule(BaseModule):
    """Training of the refiner on examples of what propagation does to labels.

    A batch is a :class:`~wrp.structures.RefinerExamples`; :class:`~wrp.RefinementData` serves those of
    :class:`~wrp.refinement.sampler.CycleExamples`, which are made from the sparse keyframes alone. Logs ``train/loss``,
    ``val/miou`` and, for comparison, ``val/prior_miou``.

    Args:
        num_classes: Number of classes C.
        network: The network.
        optimizer: How it is optimised; None: AdamW with a learning rate of 0.005.
        loss: From logits (B, C, H, W) and the truth (B, H, W) uint8 to a scalar; None: cross-entropy in which rare
            classes weigh more (``balance`` 0.5), see :class:`~wrp.segmentation.losses.SegmentationLoss`.
        net: A refiner of your own: :class:`~wrp.structures.RefinerInput` to logits (B, C, H, W).
    """

    methods = ("refine",)

    def __init__(
        self,
        num_classes: int,
        network: RefinerArgs | None = None,
        optimizer: OptimizerArgs | None = None,
        loss: nn.Module | None = None,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer if optimizer is not None else OptimizerArgs(lr=5e-3))
        self.num_classes = num_classes
        self.network = as_options(RefinerArgs, network)
        self.criterion = loss if loss is not None else SegmentationLoss(cross_entropy={"balance": 0.5})
        self.net = net if net is not None else self.configure_network()
        self.save_arguments("net", "loss")
        self.save_hyperparameters({"network": asdict(self.network)})  # which may have got the encoder of a teacher
        self.val_score, self.prior_score = SegmentationScore(num_classes), SegmentationScore(num_classes)

    def configure_network(self) -> nn.Module:
        """Make the refiner; override it for one of your own."""
        args = self.network
        if args.decoder is None:
            return Refiner(self.num_classes, tuple(args.channels))
        name, weights = args.encoder_name, None
        if args.encoder_from is not None:
            name, weights, seen = _encoder_of(args.encoder_from)
            self.labels_seen |= seen
            # The weights are kept with the refiner's: its checkpoint does not depend on the other one.
            self.network = replace(args, encoder_name=name, encoder_from=None)
        if name is None:
            raise WrpError(
                f"a refiner with the decoder {args.decoder} sees through an encoder: give network.encoder_name, or "
                "network.encoder_from, the checkpoint of a SegmentationModule"
            )
        view = EncoderView(args.decoder, name, VIEW_CHANNELS, args.freeze_encoder)
        if weights is not None:
            view.net.encoder.load_state_dict(weights)
        return Refiner(self.num_classes, tuple(args.channels), view, VIEW_CHANNELS)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (B, C, H, W) against the truth (B, H, W) uint8; override it for another."""
        loss: Tensor = self.criterion(logits, labels)
        return loss

    def forward(self, inputs: RefinerInput) -> Tensor:
        """Logits (B, C, H, W) of the refined labels."""
        return self.net(inputs)

    def training_step(self, batch: RefinerExamples, batch_idx: int) -> Tensor:
        """Loss of some examples."""
        batch = _examples(batch)
        loss = self.loss(self(batch.inputs), batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: RefinerExamples, batch_idx: int) -> None:
        """Refine some examples and compare with their truth."""
        batch = _examples(batch)
        for labels, found in ((self.val_score, refined(self, batch.inputs)), (self.prior_score, batch.inputs.prior)):
            labels.update(argmax_with_confidence(found)[0], batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the refined labels and of the prior."""
        for name, score in (("miou", self.val_score), ("prior_miou", self.prior_score)):
            self.log(f"val/{name}", score.compute().float(), prog_bar=True)
            score.reset()

    def predict_step(self, batch: RefinerExamples, batch_idx: int) -> list[Prediction]:
        """Refine some examples."""
        batch = _examples(batch)
        labels, confidence = argmax_with_confidence(refined(self, batch.inputs))
        name = (batch.clip, batch.stem, batch.index, self.methods[-1])
        return [Prediction(*name, *found) for found in zip(labels, confidence, strict=True)]


def _encoder_of(checkpoint: str) -> tuple[str, dict[str, Any], frozenset[str]]:
    """The name of a segmentation network's encoder, its weights, and the hashes of the labels that it has seen."""
    module: SegmentationModule = load_module(SegmentationModule, Path(checkpoint))
    weights = module.inference_model.encoder.state_dict()  # type: ignore[union-attr]
    return module.network.encoder_name, weights, module.labels_seen


def _examples(batch: RefinerExamples) -> RefinerExamples:
    if not isinstance(batch, RefinerExamples):
        raise WrpError(
            f"RefinementModule learns from examples, got a {type(batch).__name__}: use --data RefinementData"
        )
    return batch


def teacher_probabilities(teacher: Any, frame: Tensor, num_classes: int) -> Tensor:
    """The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8; zeros without a teacher.

    They are the mean of those of the frame and of its mirror image (ours); measured in experiments/README.md.
    """
    if teacher is None:
        return torch.zeros(num_classes, *frame.shape[1:], device=frame.device)
    probs, mirrored = teacher.probabilities(torch.stack((frame, frame.flip(-1))))
    return (probs + mirrored.flip(-1)) / 2
