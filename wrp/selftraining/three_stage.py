"""Three-Stage self-training (Ke et al., TIP 2022): a second head learns the noisy labels instead of the first one.

Head f learns from ground truth and from the average of its own past weights; head g, which shares f's trunk, learns
from pseudo-labels. Errors in pseudo-labels can affect f only through the trunk.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wrp.errors import WrpError
from wrp.geometry.consistency import to_unit
from wrp.segmentation.network import Segmenter
from wrp.selftraining.average import AveragedModule
from wrp.selftraining.student import fit_labels, fit_weights, split_batch, without_auxiliary
from wrp.structures import IGNORE_INDEX, FrameBatch

# Names of an encoder's stages: layer1, s1, stages_0, block2 …
_STAGE = re.compile(r"^(layer|stages?_?|s|blocks?_?)\d+$")

# Decay of the average of the weights in each of four equal parts of a training.
EMA_STEPS = (0.99, 0.995, 0.9975, 0.999)


def three_stage_loss(supervised: Tensor, consistency: Tensor, pseudo: Tensor, supervised_weight: float = 1.0) -> Tensor:
    """Compute L = λ_s · L_sup + ½ · ½ (L_con + L_pl) (Ke et al., TIP 2022).

    Args:
        supervised: L_sup = CE(f, truth), a scalar.
        consistency: L_con = CE(f, argmax of f's average), a scalar.
        pseudo: L_pl = CE(g, pseudo-label), a scalar.
        supervised_weight: λ_s; the paper uses 0.5 for Cityscapes and 1 for Pascal VOC.

    Example:
        >>> three_stage_loss(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0), supervised_weight=0.5)
        tensor(2.)
    """
    return supervised_weight * supervised + 0.5 * 0.5 * (consistency + pseudo)


def ema_decay(step: int, steps: int) -> float:
    """Return the decay of the average of the weights at a step of a training: the ratio of its past.

    It begins small (ours): with the paper's schedule alone, the untrained network would still make up a quarter of the
    average after 300 steps.

    Args:
        step: Number of the step, counted from 0.
        steps: Number of steps of the training.

    Returns:
        The decay, in (0, 1).

    Example:
        >>> ema_decay(0, 10000), ema_decay(5000, 10000)
        (0.1, 0.9975)
    """
    planned = EMA_STEPS[min(len(EMA_STEPS) - 1, step * len(EMA_STEPS) // max(1, steps))]
    return min(planned, (1 + step) / (10 + step))


def warp_by_grid(labels: Tensor, grid: Tensor, valid: Tensor) -> Tensor:
    """Warp labels by the geometry of an augmentation, so that two kinds of labels are moved in the same way.

    Args:
        labels: (B, H, W) integer.
        grid: Where each pixel of the result comes from, (B, H, W, 2) in [-1, 1], as expected by ``grid_sample`` with
            ``align_corners=False``.
        valid: (B, H, W) bool; elsewhere the result is 255.

    Returns:
        (B, H, W), dtype of ``labels``.

    Example:
        >>> grid = torch.tensor([[[[0.5, 0.0], [-0.5, 0.0]]]])  # mirrors two pixels
        >>> warp_by_grid(torch.tensor([[[0, 1]]]), grid, torch.tensor([[[True, True]]])).tolist()
        [[[1, 0]]]
    """
    moved = functional.grid_sample(labels[:, None].float(), grid.float(), mode="nearest", align_corners=False)[:, 0]
    return moved.to(labels.dtype).masked_fill(~valid, IGNORE_INDEX)


class ThreeStageModule(AveragedModule):
    """Stages 2 and 3: head f learns from truth and from the average of its weights, head g from pseudo-labels.

    The ``unlabelled`` images of a batch are all images, including those with a label, each with its pseudo-label; with
    ``propagated.apart``, they are the frames between the keyframes. Scores and predictions are those of f's average.
    All other arguments are those of :class:`~wrp.selftraining.student.StudentModule`.

    Args:
        shared: How many stages of the encoder, counted from its beginning, f and g share (of a vision transformer
            without stages: how many blocks); None: all layers except g's classifier, as in stage 3.
        supervised_weight: λ_s of :func:`three_stage_loss`.

    Raises:
        WrpError: If the network is not a :class:`~wrp.segmentation.network.Segmenter`, or ``shared`` is out of range.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> module = ThreeStageModule(3, NetworkArgs("FPN", "tu-regnetx_002"), shared=2)
        >>> module.inference_model is module.average, len(module.encoders())
        (True, 2)
    """

    def __init__(self, *args: Any, shared: int | None = 3, supervised_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.net, Segmenter):
            raise WrpError(f"ThreeStageModule needs an encoder-decoder of its own, got a {type(self.net).__name__}")
        self.supervised_weight = supervised_weight
        self.second = second_head(self.net, shared)

    def training_step(self, batch: FrameBatch | Mapping[str, FrameBatch], batch_idx: int) -> Tensor:
        """Compute and log the loss of a batch of both kinds.

        Raises:
            WrpError: If the batch does not keep both kinds apart, as the first head would then learn noisy labels.
        """
        split_batch(batch)
        return super().training_step(batch, batch_idx)

    def semi_loss(self, labelled: FrameBatch, unlabelled: FrameBatch) -> Tensor:
        """Compute L = λ_s · L_sup + ½ · ½ (L_con + L_pl), with L_con only where there is a pseudo-label (ours).

        There is none outside of the image, and where a label was left out as unsure, the average is unsure as well.
        """
        weak = to_unit(unlabelled.images)
        with torch.no_grad():
            target = without_auxiliary(self.average(weak)).argmax(1)
        # One strong view for both kinds of labels; neither counts where it is cut out.
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

    def decay(self) -> float:
        """Return the decay of the average by the schedule :func:`ema_decay`."""
        return ema_decay(self.global_step + 1, self.steps("the average of the weights depends on"))

    def encoders(self) -> list[nn.Module]:
        """Return the encoder of f, and that of g, which shares its first stages."""
        return [*super().encoders(), *([self.second.encoder] if hasattr(self, "second") else [])]


def second_head(net: Segmenter, shared: int | None) -> Segmenter:
    """Make head g: a copy of a network that shares the first stages of its encoder.

    Args:
        net: Head f.
        shared: How many stages of the encoder both share; None: encoder and decoder, i.e. all but the classifier.

    Raises:
        WrpError: If the encoder has fewer stages.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> from wrp.segmentation.network import create_segmenter
        >>> net = create_segmenter(3, NetworkArgs("FPN", "tu-regnetx_002"))
        >>> second_head(net, None).encoder is net.encoder, second_head(net, 1).encoder is net.encoder
        (True, False)
    """
    copied = copy.deepcopy(net)
    ours: Any = net.net
    theirs: Any = copied.net
    if shared is None:
        theirs.encoder, theirs.decoder = ours.encoder, ours.decoder
        return copied
    mine, other = (getattr(part.encoder, "model", part.encoder) for part in (ours, theirs))
    layers, ends = _stages_of(net)
    if not 0 <= shared <= len(ends):
        known = ", ".join(layers[i] for i in ends)
        raise WrpError(f"shared must be 0 … {len(ends)}, stages of the encoder ({known}), got {shared}")
    for name in layers[: ends[shared - 1] + 1 if shared else 0]:
        other.set_submodule(name, mine.get_submodule(name))
    return copied


def _stages_of(net: Segmenter) -> tuple[list[str], list[int]]:
    """Return the names of an encoder's layers in their order, and the number of the last layer of each stage."""
    encoder = getattr(net.encoder, "model", net.encoder)
    children = {name: layer for name, layer in encoder.named_children() if next(layer.parameters(), None) is not None}
    layers = list(children)
    # The stages follow a stem, whose convolution and normalisation have names of their own.
    if ends := [number for number, name in enumerate(layers) if _STAGE.search(name)]:
        return layers, ends
    trunk = max(layers, key=lambda name: sum(parameter.numel() for parameter in children[name].parameters()))
    if not isinstance(children[trunk], nn.Sequential | nn.ModuleList):
        return layers, list(range(len(layers)))
    # EfficientNet, MobileNet and others keep the blocks of all stages in one list.
    blocks = [f"{trunk}.{name}" for name, _ in children[trunk].named_children()]
    before = layers.index(trunk)
    layers[before : before + 1] = blocks
    return layers, [before + end for end in _ends_of_stages(net, blocks)]


def _ends_of_stages(net: Segmenter, blocks: list[str]) -> list[int]:
    """Return the number of the last block at each resolution of a quarter or less; of all if there is only one."""
    sizes: list[int] = []
    encoder: Any = copy.deepcopy(net.encoder).eval()
    for name in blocks:
        block = getattr(encoder, "model", encoder).get_submodule(name)
        block.register_forward_hook(lambda _, __, features: sizes.append(features.shape[-1]))
    side = 2 * net.stride
    with torch.no_grad():
        encoder(next(encoder.parameters()).new_zeros(1, 3, side, side))
    ends = [i for i, size in enumerate(sizes) if size != (*sizes, 0)[i + 1] and size <= side // 4]
    return ends if len(ends) > 1 else list(range(len(blocks)))
