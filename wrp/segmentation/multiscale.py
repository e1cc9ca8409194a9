"""Hierarchical multi-scale attention (Tao, Sapra, Catanzaro, 2020) around any encoder-decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Images at another scale are resized to a multiple of this number of pixels, as every encoder requires it.
STRIDE = 32


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

    p = up(α · p_low) + (1 - up(α)) · p_high, with α predicted at the lower scale. It is trained on two neighbouring
    scales; at test, the blend is repeated over more of them (Tao, Sapra, Catanzaro, 2020).

    Args:
        net: A network with an :class:`AttentionHead`: images (B, 3, h, w) to attention, logits and auxiliary logits.
        scales: Scales in training, 1 among them.
        test_scales: Scales in evaluation; None: those of training.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> from wrp.segmentation.network import create_segmenter
        >>> network = NetworkArgs("FPN", "tu-regnetx_002", attention_scales=[0.5, 1.0])
        >>> net = create_segmenter(3, network).eval().net  # a MultiScale around the FPN
        >>> net.scales, net(torch.zeros(1, 3, 64, 64)).shape
        ([0.5, 1.0], torch.Size([1, 3, 64, 64]))
    """

    def __init__(
        self, net: nn.Module, scales: Sequence[float] = (0.5, 1.0), test_scales: Sequence[float] | None = None
    ):
        super().__init__()
        self.net = net
        self.scales = sorted(scales)
        self.test_scales = sorted(test_scales or scales)

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the wrapped network."""
        encoder: nn.Module = self.net.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute logits (B, C, h, w) of images (B, 3, h, w); in training, with the auxiliary logits of scale 1."""
        size = images.shape[-2:]
        auxiliary: tuple[Tensor, ...] = ()
        blended: Tensor | None = None
        # From the highest scale down: the attention of each lower scale is its weight in the blend so far.
        for scale in reversed(self.scales if self.training else self.test_scales):
            attention, logits, *others = (_resize(part, size) for part in self.net(_magnify(images, scale)))
            if scale == 1:
                auxiliary = tuple(others)
            blended = logits if blended is None else attention * logits + (1 - attention) * blended
        assert blended is not None
        return (blended, *auxiliary) if self.training and auxiliary else blended


def _magnify(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(2 * STRIDE, round(side * scale / STRIDE) * STRIDE) for side in images.shape[-2:]]
    resized = functional.interpolate(images, size, mode="bilinear", antialias=scale < 1)
    return resized.contiguous(memory_format=torch.channels_last)


def _resize(values: Tensor, size: torch.Size) -> Tensor:
    return values if values.shape[-2:] == size else functional.interpolate(values, size, mode="bilinear")
