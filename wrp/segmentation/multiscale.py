"""Hierarchical multi-scale attention (Tao, Sapra, Catanzaro, 2020) around any encoder-decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wrp.segmentation.resizing import resize_smoothly, scaled

# Weight of the loss of each scale's own logits, in addition to that of the blend (``supervised_mscale_loss_wt`` of the
# original for Cityscapes).
SCALE_WEIGHT = 0.05


class AttentionHead(nn.Module):
    """A segmentation head that also predicts, for each pixel, the weight of its scale (attention).

    Args:
        head: The head for logits; it takes features (B, D, h', w').
        in_channels: D.

    Example:
        >>> head = AttentionHead(nn.Conv2d(16, 3, 1), in_channels=16).eval()
        >>> attention, logits = head(torch.zeros(1, 16, 8, 8))
        >>> attention.shape, logits.shape
        (torch.Size([1, 1, 8, 8]), torch.Size([1, 3, 8, 8]))
    """

    def __init__(self, head: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.head = head
        self.attention = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, 1, 1),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Compute attention (B, 1, h, w) in [0, 1], logits (B, C, h, w), and further outputs of the head, if any."""
        given = self.head(features)
        logits = given if isinstance(given, tuple) else (given,)
        attention = functional.interpolate(self.attention(features), logits[0].shape[-2:], mode="bilinear")
        return attention.sigmoid(), *logits


class MultiScale(nn.Module):
    """A network whose logits are blended over several scales.

    p = up(α · p_low) + (1 - up(α)) · p_high, with α predicted at the lower scale; auxiliary logits are blended in the
    same way. It is trained on two neighbouring scales; at test, the blend is repeated over more of them (Tao, Sapra,
    Catanzaro, 2020). In training, the logits of each scale follow those of the blend, so that each scale has a loss of
    its own, :data:`SCALE_WEIGHT`.

    Args:
        net: A network with an :class:`AttentionHead`: images (B, 3, h, w) to attention, logits and auxiliary logits.
        scales: Scales in training, 1 among them.
        test_scales: Scales in evaluation; None: those of training.
        stride: Images at another scale are resized to sides that are multiples of this number of pixels.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> from wrp.segmentation.network import create_segmenter
        >>> network = NetworkArgs("FPN", "tu-regnetx_002", attention_scales=[0.5, 1.0])
        >>> net = create_segmenter(3, network).eval().net  # a MultiScale around the FPN
        >>> net.scales, net(torch.zeros(1, 3, 64, 64)).shape
        ([0.5, 1.0], torch.Size([1, 3, 64, 64]))
    """

    def __init__(
        self,
        net: nn.Module,
        scales: Sequence[float] = (0.5, 1.0),
        test_scales: Sequence[float] | None = None,
        stride: int = 32,
    ) -> None:
        super().__init__()
        self.net = net
        self.scales = sorted(scales)
        self.test_scales = sorted(test_scales or scales)
        self.stride = stride

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the wrapped network."""
        encoder: nn.Module = self.net.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute logits (B, C, h, w) of images (B, 3, h, w).

        In training, the result is a tuple: these logits, the auxiliary ones if there are any, and the logits of each
        scale, the highest first.
        """
        size = images.shape[-2:]
        blended: list[Tensor] = []
        single: list[Tensor] = []
        # From the highest scale down: the attention of each lower scale is its weight in the blend so far.
        for scale in reversed(self.scales if self.training else self.test_scales):
            attention, *logits = self.net(self._magnify(images, scale))
            single.append(_resize(logits[0], size))
            if blended:
                rest = 1 - _resize(attention, size)
                pairs = zip(logits, blended, strict=True)
                blended = [_resize(attention * part, size) + rest * above for part, above in pairs]
            else:
                blended = [_resize(part, size) for part in logits]
        return (*blended, *single) if self.training else blended[0]

    def _magnify(self, images: Tensor, scale: float) -> Tensor:
        if scale == 1:
            return images
        stride = self.stride
        size = [scaled(side, scale, stride, 2 * stride) for side in images.shape[-2:]]
        resized = resize_smoothly(images, size) if scale < 1 else functional.interpolate(images, size, mode="bilinear")
        return resized.contiguous(memory_format=torch.channels_last)


def _resize(values: Tensor, size: torch.Size) -> Tensor:
    return values if values.shape[-2:] == size else functional.interpolate(values, size, mode="bilinear")
