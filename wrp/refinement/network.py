"""The refiner R: a label-denoising network (paper), here a light U-Net over a soft prior (ours)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wrp.geometry.fusion import WarpedLabels, blend, blend_weights, inpaint, motion_error
from wrp.structures import RefinerInput

# Probability spread over all classes before the logarithm: log-odds of the prior stay within ±log(C · 97 %/ 3 %),
# so that the network can overrule it.
SMOOTHING = 0.03

# Log-odds, before training, that the label is the teacher's inside of the motion-error mask, and motion's outside.
INPAINT_ODDS = 3.0

# Channels of the input that depend neither on the image nor on the number of classes.
CUES = 4


def refiner_input(image: Tensor, warped: WarpedLabels, teacher_probs: Tensor) -> RefinerInput:
    """Inputs of one frame, made by the same code in training and at inference.

    Args:
        image: I_j, (3, H, W) float32 in [0, 1].
        evidence: What the sources say about the frame.
        semantic: p^S_j, (C, H, W).

    Returns:
        Input with B = 1.
    """
    weights = blend_weights(warped)
    motion = blend(warped, weights, teacher_probs.shape[0])
    error = motion_error(warped)
    prior = inpaint(motion, error, teacher_probs)
    disagreement = (1 - motion.amax(0)).clamp(min=0)  # rounding may leave less than nothing
    photometric = (weights * warped.photometric.float()).sum(0) * 10
    nearness = (weights * torch.exp(-warped.distance / 10).view(-1, 1, 1)).sum(0)
    cues = torch.stack((error.float(), disagreement, photometric.clamp(max=1), nearness))
    return RefinerInput(image[None], prior[None], teacher_probs[None].float(), cues[None], motion[None])


def refined(refiner: Callable[[RefinerInput], Tensor], inputs: RefinerInput) -> Tensor:
    """y^WR: the mean of the refiner's answer and of the labels it was given, by motion and inpainted (ours).

    The answer, to the frames and to their mirror images, is too sure alone, and worse where motion is right; measured
    in experiments/README.md.

    Args:
        refiner: From inputs to logits (B, C, H, W).
        inputs: What it is given.

    Returns:
        Probabilities (B, C, H, W) float32.
    """
    answer, mirrored = refiner(stack_inputs([inputs, inputs.flip()])).float().softmax(1).chunk(2)
    probs = (answer + mirrored.flip(-1) + inputs.prior + inputs.motion) / 2
    return probs / probs.sum(1, keepdim=True)  # less than two where motion knows nothing


def stack_inputs(inputs: list[RefinerInput]) -> RefinerInput:
    """One batch of several inputs of one size."""
    return RefinerInput(*(torch.cat(parts) for parts in zip(*(vars(i).values() for i in inputs), strict=True)))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # Group instead of batch normalisation: the crops of a batch come from few frames of one clip.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True)
    )


class Refiner(nn.Module):
    """A light U-Net that inpaints anew and adds to the result: untrained, its output is nearly the prior.

    One channel corrects the motion-error mask (ours): whether to believe motion or the teacher is the same question for
    every class, and a network that answers it class by class needs more examples than three frames give. The others are
    logits on top of what was inpainted with the corrected mask.

    Args:
        num_classes: C.
        channels: Width of each level, full resolution first; each next level has half the resolution. Multiples of 4.
        view: Maps images (B, 3, H, W) to features (B, D, H, W) that are part of the input as well; None: there are
            none.
        view_channels: D.
    """

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (16, 32, 48, 64, 96),
        view: nn.Module | None = None,
        view_channels: int = 0,
    ) -> None:
        super().__init__()
        self.view = view
        self.stem = _convolution(3 + 2 * num_classes + CUES + view_channels, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(fine, coarse, 2), _convolution(coarse, coarse))
            for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.up = nn.ModuleList(
            _convolution(fine + coarse, fine) for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.head = nn.Conv2d(channels[0], 1 + num_classes, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: RefinerInput) -> Tensor:
        """Logits (B, C, H, W): logarithm of what is inpainted, smoothed, plus what the network adds."""
        correction, residual = self.residual(inputs).split((1, inputs.prior.shape[1]), 1)
        mask = torch.sigmoid(correction + INPAINT_ODDS * (2 * inputs.cues[:, :1] - 1))
        inpainted = (1 - mask) * inputs.motion + mask * inputs.teacher_probs
        inpainted = inpainted / inpainted.sum(1, keepdim=True).clamp(min=1e-6)
        return ((1 - SMOOTHING) * inpainted + SMOOTHING / inpainted.shape[1]).log() + residual

    def residual(self, inputs: RefinerInput) -> Tensor:
        """Log-odds added to the motion-error mask and logits added to the classes, (B, 1 + C, H, W)."""
        parts = [inputs.image - 0.5, inputs.prior, inputs.teacher_probs, inputs.cues]
        if self.view is not None:
            parts.append(self.view(inputs.image))
        features = [self.stem(torch.cat(parts, 1).contiguous(memory_format=torch.channels_last))]
        for down in self.down:
            features.append(down(features[-1]))
        merged = features.pop()
        for up in reversed(self.up):
            finer = features.pop()
            merged = functional.interpolate(merged, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            merged = up(torch.cat((merged, finer), 1))
        return self.head(merged)
