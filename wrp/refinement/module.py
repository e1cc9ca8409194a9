"""Training of the refiner on the errors of propagation at frames whose truth is known (method, section 3)."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wrp.errors import WrpError
from wrp.geometry.labels import argmax_with_confidence
from wrp.io.checkpoints import FLOW_KEY, load_module, network_of
from wrp.metrics.segmentation import SegmentationScore
from wrp.module import BaseModule
from wrp.options import OptimizerArgs, RefinerArgs, as_options
from wrp.refinement.network import Refiner, refined
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.module import SegmentationModule
from wrp.segmentation.network import EncoderView
from wrp.structures import Prediction, RefinerExamples, RefinerInput

# Number of image features from the decoder.
VIEW_CHANNELS = 16


class RefinementModule(BaseModule):
    """Training of the refiner, which removes the errors that propagation makes in labels.

    A batch is a :class:`~wrp.structures.RefinerExamples`. :class:`~wrp.RefinementData` serves those of
    :class:`~wrp.refinement.sampler.CycleExamples`, which are made from the sparse keyframes alone. It logs
    ``train/loss``, ``val/miou`` and, for comparison, ``val/prior_miou``, all mIoU in percent.

    Args:
        num_classes: Number of classes C.
        network: The network.
        optimizer: Optimiser and learning rates; None: AdamW with a learning rate of 0.005.
        loss: Maps logits (B, C, H, W) and the truth (B, H, W) uint8 to a scalar; None: cross-entropy in which rare
            classes weigh more (``balance`` 0.5), see :class:`~wrp.segmentation.losses.SegmentationLoss`.
        net: Your own refiner instead of ``network``: :class:`~wrp.structures.RefinerInput` to logits (B, C, H, W).

    Attributes:
        flow_signature: Signature of the flow of the examples that it has learned from, whose errors it corrects;
            empty: unknown.

    Raises:
        WrpError: If ``network`` has a decoder but no encoder, or a name or checkpoint cannot be used.

    Example:
        >>> module = RefinementModule(3, RefinerArgs(channels=(8, 16)))
        >>> soft = torch.full((1, 3, 16, 16), 1 / 3)
        >>> inputs = RefinerInput(torch.zeros(1, 3, 16, 16), soft, soft, torch.zeros(1, 4, 16, 16), soft)
        >>> module(inputs).shape
        torch.Size([1, 3, 16, 16])
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
        self.flow_signature = ""
        self.network = as_options(RefinerArgs, network)
        self.criterion = loss if loss is not None else SegmentationLoss(cross_entropy={"balance": 0.5})
        self.net = network_of(net) or self.configure_network()
        self.save_arguments("net", "loss")
        self.save_network(net)
        self.save_hyperparameters({"network": asdict(self.network)})  # its encoder may come from a teacher
        self.val_score, self.prior_score = SegmentationScore(num_classes), SegmentationScore(num_classes)

    def configure_network(self) -> nn.Module:
        """Make the refiner; override this method for another one."""
        args = self.network
        if args.decoder is None:
            return Refiner(self.num_classes, tuple(args.channels))
        name, weights = args.encoder_name, None
        if args.encoder_from is not None:
            name, weights, seen = _encoder_of(args.encoder_from)
            self.labels_seen |= seen
            # The weights are saved with the refiner's, so its checkpoint does not depend on the teacher's.
            self.network = replace(args, encoder_name=name, encoder_from=None)
        if name is None:
            raise WrpError(
                f"a refiner with the decoder {args.decoder} sees through an encoder: give network.encoder_name, or "
                "network.encoder_from, the checkpoint of a SegmentationModule"
            )
        frozen = args.freeze_encoder or self.optimizer.encoder_lr == 0
        view = EncoderView(args.decoder, name, VIEW_CHANNELS, frozen)
        if weights is not None:
            view.net.encoder.load_state_dict(weights)
        return Refiner(self.num_classes, tuple(args.channels), view, VIEW_CHANNELS)

    @property
    def backbone(self) -> nn.Module:
        """The encoder that the refiner sees the image through; Lightning's BackboneFinetuning expects this name."""
        view = getattr(self.net, "view", None)
        if view is None:
            raise WrpError(
                "BackboneFinetuning, optimizer.encoder_lr and optimizer.layer_decay need an encoder, this refiner has "
                "none: give network.decoder and network.encoder_name"
            )
        encoder: nn.Module = view.net.encoder
        return encoder

    def encoders(self) -> list[nn.Module]:
        """Return the encoder that the refiner sees the image through."""
        return [self.backbone]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits (B, C, H, W) and truth (B, H, W) uint8; override this method for another one."""
        loss: Tensor = self.criterion(logits, labels)
        return loss

    def forward(self, inputs: RefinerInput) -> Tensor:
        """Compute logits (B, C, H, W) of the refined labels."""
        return self.net(inputs)

    def on_fit_start(self) -> None:
        """Remember the flow of the examples, if they tell it."""
        super().on_fit_start()
        examples = getattr(self.trainer.datamodule, "examples", None)  # type: ignore[attr-defined]
        if (flow := getattr(examples, "flow", None)) is not None:
            self.flow_signature = flow.signature

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the flow of the examples too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[FLOW_KEY] = self.flow_signature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the flow of the examples too."""
        super().on_load_checkpoint(checkpoint)
        self.flow_signature = str(checkpoint.get(FLOW_KEY, ""))

    def training_step(self, batch: RefinerExamples, batch_idx: int) -> Tensor:
        """Compute and log the loss of a batch of examples."""
        batch = _examples(batch)
        loss = self.loss(self(batch.inputs), batch.labels)
        self.log_loss(loss, len(batch.labels))
        return loss

    def validation_step(self, batch: RefinerExamples, batch_idx: int) -> None:
        """Refine a batch of examples, and add the result and the prior to their scores."""
        batch = _examples(batch)
        for labels, found in ((self.val_score, refined(self, batch.inputs)), (self.prior_score, batch.inputs.prior)):
            labels.update(argmax_with_confidence(found)[0], batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the refined labels and of the prior."""
        for name, score in (("miou", self.val_score), ("prior_miou", self.prior_score)):
            # All processes have the same value, as the metric has summed their counts.
            self.log(f"val/{name}", (100 * score.compute()).float(), prog_bar=True, sync_dist=True)
            score.reset()

    def predict_step(self, batch: RefinerExamples, batch_idx: int) -> list[Prediction]:
        """Refine a batch of examples."""
        batch = _examples(batch)
        labels, confidence = argmax_with_confidence(refined(self, batch.inputs))
        methods = [self.methods[-1]] * len(labels)
        return list(map(Prediction, batch.clips, batch.stems, batch.indices, methods, labels, confidence))


def _encoder_of(checkpoint: str) -> tuple[str, dict[str, Any], frozenset[str]]:
    """Return name and weights of a segmentation network's encoder, and the hashes of the labels it was trained on."""
    module: SegmentationModule = load_module(SegmentationModule, Path(checkpoint))
    weights = module.inference_model.encoder.state_dict()  # type: ignore[union-attr]
    return module.network.encoder_name, weights, module.labels_seen


def _examples(batch: RefinerExamples) -> RefinerExamples:
    if not isinstance(batch, RefinerExamples):
        raise WrpError(
            f"RefinementModule learns from examples, got a {type(batch).__name__}: use --data RefinementData"
        )
    return batch


def teacher_probabilities(teacher: Any, frames: Tensor, num_classes: int) -> Tensor:
    """Compute the teacher's class probabilities, averaged over each frame and its mirror image, in one call.

    The average is ours; its gain is measured in experiments/README.md.

    Args:
        teacher: A module with a method ``probabilities``, such as a SegmentationModule; None: there is no teacher.
        frames: One frame (3, H, W) or several (B, 3, H, W), uint8 RGB.
        num_classes: Number of classes C.

    Returns:
        (C, H, W) or (B, C, H, W) float32 in [0, 1]; zeros without a teacher.

    Example:
        >>> teacher_probabilities(None, torch.zeros(3, 8, 8, dtype=torch.uint8), 2).shape
        torch.Size([2, 8, 8])
    """
    several, size = frames.shape[:-3], frames.shape[-2:]
    if teacher is None:
        return torch.zeros(*several, num_classes, *size, device=frames.device)
    frames = frames.view(-1, 3, *size)
    probs, mirrored = teacher.probabilities(torch.cat((frames, frames.flip(-1)))).chunk(2)
    averaged: Tensor = (probs + mirrored.flip(-1)) / 2
    return averaged.view(*several, *averaged.shape[1:])
