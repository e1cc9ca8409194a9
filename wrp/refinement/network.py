"""The refiner R: a label-denoising network (paper), here a light U-Net on top of a soft prior (ours)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wrp.geometry.fusion import WarpedLabels, blend, blend_weights, inpaint, motion_error
from wrp.structures import RefinerInput

# Probability spread over all classes before the logarithm: it limits the log-odds of the prior to ±log(C · 97 % / 3 %),
# so that the network can overrule the prior.
SMOOTHING = 0.03

# Log-odds, before training, of the teacher's label inside the motion-error mask, and of motion's label outside of it.
INPAINT_ODDS = 3.0

# Number of input channels that depend neither on the image nor on the number of classes.
CUES = 4

# Features of the network at full resolution.
FINE = 8


def refiner_input(image: Tensor, warped: WarpedLabels, teacher_probs: Tensor) -> RefinerInput:
    """Make the refiner's input for one frame, in training and at inference alike.

    Args:
        image: I_j, (3, H, W) float32 RGB in [0, 1].
        warped: The labels of the keyframes, warped into the frame.
        teacher_probs: p^S_j, (C, H, W) floating point in [0, 1].

    Returns:
        Input with B = 1.

    Example:
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> warped = WarpedLabels(labels, labels.bool(), torch.zeros(1, 8, 8), torch.tensor([3.0]), torch.tensor([0]))
        >>> inputs = refiner_input(torch.zeros(3, 8, 8), warped, torch.full((2, 8, 8), 0.5))
        >>> inputs.prior.shape, inputs.cues[0, :, 0, 0]  # the nearness is exp(-3 / 10)
        (torch.Size([1, 2, 8, 8]), tensor([0.0000, 0.0000, 0.0000, 0.7408]))
    """
    weights = blend_weights(warped)
    motion = blend(warped, weights, teacher_probs.shape[0])
    error = motion_error(warped)
    prior = inpaint(motion, error, teacher_probs)
    disagreement = (1 - motion.amax(0)).clamp(min=0)  # rounding may make it negative
    photometric = (weights * warped.photometric.float()).sum(0) * 10
    nearness = (weights * torch.exp(-warped.distance / 10).view(-1, 1, 1)).sum(0)
    cues = torch.stack((error.float(), disagreement, photometric.clamp(max=1), nearness))
    return RefinerInput(image[None], prior[None], teacher_probs[None].float(), cues[None], motion[None])


def refined(refiner: Callable[[RefinerInput], Tensor], inputs: RefinerInput) -> Tensor:
    """Compute y^WR: the mean of the refiner's outputs for frames and mirror images, and of half y^M, half y^WI (ours).

    Alone, the refiner is overconfident, and worse where motion is right; measured in experiments/README.md.

    Args:
        refiner: Maps inputs to logits (B, C, H, W).
        inputs: Input of B frames.

    Returns:
        Probabilities (B, C, H, W) float32 that sum to 1.

    Example:
        >>> soft, cues = torch.full((1, 2, 8, 8), 0.5), torch.zeros(1, 4, 8, 8)
        >>> inputs = RefinerInput(torch.zeros(1, 3, 8, 8), soft, soft, cues, soft)
        >>> refined(Refiner(2, channels=(4, 8)), inputs)[0, :, 0, 0].tolist()
        [0.5, 0.5]
    """
    answer, mirrored = refiner(stack_inputs([inputs, inputs.flip()])).float().softmax(1).chunk(2)
    probs = answer + mirrored.flip(-1) + (inputs.motion + inputs.prior) / 2
    return probs / probs.sum(1, keepdim=True)  # the sum is less than three where motion has no label


def stack_inputs(inputs: list[RefinerInput]) -> RefinerInput:
    """Join several inputs of one size into one batch.

    Example:
        >>> soft, cues = torch.full((1, 2, 8, 8), 0.5), torch.zeros(1, 4, 8, 8)
        >>> inputs = RefinerInput(torch.zeros(1, 3, 8, 8), soft, soft, cues, soft)
        >>> stack_inputs([inputs, inputs.flip()]).image.shape
        torch.Size([2, 3, 8, 8])
    """
    return RefinerInput(*(torch.cat(parts) for parts in zip(*(vars(i).values() for i in inputs), strict=True)))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # Group instead of batch normalisation, as the crops of a batch come from few frames of one clip.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True)
    )


class Refiner(nn.Module):
    """A light U-Net that corrects the motion-error mask, inpaints with it, and adds logits to the result.

    Untrained, its output is nearly the prior. One output channel corrects the motion-error mask (ours): whether to use
    motion or the teacher does not depend on the class, and a network that learns it class by class needs more examples
    than three frames give. The other channels are logits that are added to the inpainted label.

    It begins at half the resolution, as most of its time would be spent at the full one; one convolution at the end
    sees image and cues as they are, and how far motion and teacher agree (ours).

    Args:
        num_classes: C.
        channels: Width of each level, half resolution first; each further level has half the resolution. Multiples of
            4.
        view: Maps images (B, 3, H, W) to features (B, D, H, W), which are further input channels; None: no features.
        view_channels: Number of features D.

    Example:
        >>> refiner = Refiner(num_classes=2, channels=(4, 8))
        >>> soft, cues = torch.full((1, 2, 8, 8), 0.5), torch.zeros(1, 4, 8, 8)
        >>> refiner(RefinerInput(torch.zeros(1, 3, 8, 8), soft, soft, cues, soft)).shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (16, 32, 48, 64),
        view: nn.Module | None = None,
        view_channels: int = 0,
    ) -> None:
        super().__init__()
        self.view = view
        self.stem = _convolution(3 + 2 * num_classes + CUES + view_channels, channels[0], 2)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(fine, coarse, 2), _convolution(coarse, coarse))
            for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.up = nn.ModuleList(
            _convolution(fine + coarse, fine) for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        # What motion and teacher say at full resolution comes as three numbers, however many classes there are.
        self.fine = _convolution(channels[0] + 3 + CUES + 3, FINE)
        self.head = nn.Conv2d(FINE + channels[0], 1 + num_classes, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: RefinerInput) -> Tensor:
        """Compute logits (B, C, H, W): the logarithm of the smoothed inpainted label plus the network's logits."""
        correction, residual = self.residual(inputs).split((1, inputs.prior.shape[1]), 1)
        mask = torch.sigmoid(correction + INPAINT_ODDS * (2 * inputs.cues[:, :1] - 1))
        inpainted = (1 - mask) * inputs.motion + mask * inputs.teacher_probs
        inpainted = inpainted / inpainted.sum(1, keepdim=True).clamp(min=1e-6)
        return ((1 - SMOOTHING) * inpainted + SMOOTHING / inpainted.shape[1]).log() + residual

    def residual(self, inputs: RefinerInput) -> Tensor:
        """Compute the log-odds added to the motion-error mask and the logits added to the classes, (B, 1 + C, H, W)."""
        image, motion, teacher = inputs.image - 0.5, inputs.motion, inputs.teacher_probs
        parts = [image, inputs.prior, teacher, inputs.cues]
        if self.view is not None:
            parts.append(self.view(inputs.image))
        features = [self.stem(torch.cat(parts, 1).contiguous(memory_format=torch.channels_last))]
        for down in self.down:
            features.append(down(features[-1]))
        merged = features.pop()
        for up in reversed(self.up):
            finer = features.pop()
            merged = up(torch.cat((_resize(merged, finer), finer), 1))
        merged = _resize(merged, image)
        agreement = (
            (motion * teacher).sum(1, keepdim=True),
            motion.amax(1, keepdim=True),
            teacher.amax(1, keepdim=True),
        )
        fine = self.fine(torch.cat((merged, image, inputs.cues, *agreement), 1))
        return self.head(torch.cat((fine, merged), 1))


def _resize(values: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)
