"""Three-Stage self-training (Ke et al., TIP 2022): a second head learns noisy labels, so that the first one need not.

Head f learns from ground truth and from the average of its own past; head g, which shares f's trunk, learns from
pseudo-labels. What is wrong in these cannot reach f but through the trunk.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from wrp.errors import WrpError
from wrp.geometry.consistency import to_unit
from wrp.segmentation.network import Segmenter
from wrp.selftraining.student import StudentModule, fit_labels, fit_weights, split_batch, without_auxiliary
from wrp.structures import IGNORE_INDEX, FrameBatch

# Names of an encoder's stages: layer1, s1, stages_0, block2 …
_STAGE = re.compile(r"^(layer|stages?_?|s|blocks?_?)\d+$")

# The share of the past in the average, in four equal parts of a training.
EMA_STEPS = (0.99, 0.995, 0.9975, 0.999)


def three_stage_loss(supervised: Tensor, consistency: Tensor, pseudo: Tensor, supervised_weight: float = 1.0) -> Tensor:
    """L = λ_s · L_sup + ½ · ½ (L_con + L_pl).

    Args:
        supervised: L_sup = CE(f, truth).
        consistency: L_con = CE(f, argmax of f's average).
        pseudo: L_pl = CE(g, pseudo-label).
        supervised_weight: λ_s; the paper's is 0.5 for Cityscapes and 1 for Pascal VOC.
    """
    return supervised_weight * supervised + 0.5 * 0.5 * (consistency + pseudo)


def ema_decay(step: int, steps: int) -> float:
    """The share of the past in the average at a step of a training.

    It begins small (ours): after 300 steps, the schedule alone would leave a quarter of the untrained network in it.
    """
    planned = EMA_STEPS[min(len(EMA_STEPS) - 1, step * len(EMA_STEPS) // max(1, steps))]
    return min(planned, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the average of a network's weights on: t ← decay · t + (1 - decay) · s; its buffers are copied."""
    for past, now in zip(average.parameters(), student.parameters(), strict=True):
        past.mul_(decay).add_(now, alpha=1 - decay)
    for kept, new in zip(average.buffers(), student.buffers(), strict=True):
        kept.copy_(new)


def warp_by_grid(labels: Tensor, grid: Tensor, valid: Tensor) -> Tensor:
    """Labels under the geometry of an augmentation, so that two kinds of labels are moved alike.

    Args:
        labels: (B, H, W) integer.
        grid: Where each pixel of the result comes from, (B, H, W, 2) in [-1, 1], as grid_sample wants it with
            ``align_corners=False``.
        valid: (B, H, W) bool; elsewhere the result is 255.

    Returns:
        (B, H, W), dtype of ``labels``.
    """
    moved = functional.grid_sample(labels[:, None].float(), grid.float(), mode="nearest", align_corners=False)[:, 0]
    return moved.to(labels.dtype).masked_fill(~valid, IGNORE_INDEX)


class ThreeStageModule(StudentModule):
    """Stages 2 and 3: head f learns from truth and from its own average, head g from pseudo-labels.

    The ``unlabelled`` images of a batch are all images, those with a label as well, each with its pseudo-label; of
    ``propagated.apart``, those between the anchors. What is scored and predicted is f's average.

    Args:
        shared: How many stages of the encoder, counted from its beginning, f and g share; None: all but g's
            classifier, as in stage 3.
        supervised_weight: λ_s.
    """

    def __init__(self, *args: Any, shared: int | None = 3, supervised_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.net, Segmenter):
            raise WrpError(f"ThreeStageModule needs an encoder-decoder of its own, got a {type(self.net).__name__}")
        self.supervised_weight = supervised_weight
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.second = second_head(self.net, shared)

    def training_step(self, batch: FrameBatch | Mapping[str, FrameBatch], batch_idx: int) -> Tensor:
        """Loss of one batch of both kinds; labels of both kinds as one would teach the first head what is noisy."""
        split_batch(batch)
        return super().training_step(batch, batch_idx)

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """L = λ_s · L_sup + ½ · ½ (L_con + L_pl), L_con where there is a pseudo-label (ours).

        Outside of the image there is none, and where a label was left out as unsure, the average is not sure either.
        """
        weak = to_unit(unlabelled.images)
        with torch.no_grad():
            target = without_auxiliary(self.average(weak)).argmax(1)
        # Both kinds of labels under one strong view; where it is cut out, neither counts.
        labels, weights = self.label_source(unlabelled)
        images, pseudo = self.strong(weak, labels)
        target = target.masked_fill(pseudo == IGNORE_INDEX, IGNORE_INDEX)
        first = self.main(images)
        noisy = without_auxiliary(self.second(images))
        mass = fit_weights(weights, noisy)
        logits = self.main(to_unit(labelled.images))
        return three_stage_loss(
            self.loss(logits, fit_labels(labelled.labels, logits)),
            self.loss(first, fit_labels(target, first)),
            self.loss(noisy, fit_labels(pseudo, noisy), mass),
            self.supervised_weight,
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Move the average on with each step: before any callback saves it."""
        super().optimizer_step(*args, **kwargs)
        decay = ema_decay(self.global_step + 1, int(self.trainer.estimated_stepping_batches))
        update_average(self.average, self.net, decay)

    @property
    def inference_model(self) -> nn.Module:
        """F's average."""
        return self.average

    def encoders(self) -> list[nn.Module]:
        """F's encoder, and g's, which shares its first stages."""
        return [*super().encoders(), *([self.second.encoder] if hasattr(self, "second") else [])]

    def train(self, mode: bool = True) -> Self:
        """Switch to training; the average stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "average"):
            self.average.eval()
        return self

    def forward(self, images: Tensor) -> Any:
        """Logits of f, in evaluation those of its average, which is what is deployed."""
        return self.net(images) if self.training else self.average(images)


def second_head(net: Segmenter, shared: int | None) -> Segmenter:
    """Head g: a copy of a network that shares the first layers of its encoder, or all but its classifier."""
    copied = copy.deepcopy(net)
    ours: Any = net.net
    theirs: Any = copied.net
    if shared is None:
        theirs.encoder, theirs.decoder = ours.encoder, ours.decoder
        return copied
    mine, other = (getattr(part.encoder, "model", part.encoder) for part in (ours, theirs))
    layers = [name for name, layer in mine.named_children() if next(layer.parameters(), None) is not None]
    # Before the stages come a stem's convolution and normalisation, each under a name of its own.
    stages = [number for number, name in enumerate(layers) if _STAGE.search(name)] or list(range(len(layers)))
    if not 0 <= shared <= len(stages):
        known = ", ".join(layers[i] for i in stages)
        raise WrpError(f"shared must be 0 … {len(stages)}, stages of the encoder ({known}), got {shared}")
    for name in layers[: stages[shared - 1] + 1 if shared else 0]:
        setattr(other, name, getattr(mine, name))
    return copied
