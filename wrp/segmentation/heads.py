"""Object-contextual representations (Yuan et al., ECCV 2020) as a head for any encoder-decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OCRHead(nn.Module):
    """Each pixel looks at what the classes look like in this image.

    Soft regions, one per class, come from auxiliary logits; a region's representation is the mean of the features under
    it; a pixel's context is the mean of the regions, weighed by their likeness to the pixel.

    Args:
        in_channels: Channels of the decoder's features.
        num_classes: C.
        channels: Channels of the representations.
        keys: Channels in which pixels and regions are compared.
        upsampling: From the features' resolution to the logits', e.g. the one of the head that is replaced.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 128,
        keys: int = 64,
        upsampling: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.regions = nn.Conv2d(in_channels, num_classes, 1)
        self.pixels = _projection(in_channels, channels, 3)
        self.of_pixel = _projection(channels, keys)
        self.of_region = nn.Sequential(nn.Conv1d(channels, keys, 1), nn.ReLU(inplace=True))
        self.values = nn.Sequential(nn.Conv1d(channels, channels, 1), nn.ReLU(inplace=True))
        self.merge = _projection(2 * channels, channels)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.upsampling = upsampling if upsampling is not None else nn.Identity()
        self.scale = keys**-0.5

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, C, h, w) of features (B, D, h', w'); in training, the auxiliary logits as well."""
        auxiliary = self.regions(features)
        pixels = self.pixels(features)
        shares = auxiliary.flatten(2).float().softmax(-1).to(pixels.dtype)
        regions = torch.einsum("bcn,bdn->bdc", shares, pixels.flatten(2))
        likeness = torch.einsum("bkn,bkc->bnc", self.of_pixel(pixels).flatten(2), self.of_region(regions))
        attention = (likeness * self.scale).softmax(-1)
        context = torch.einsum("bnc,bdc->bdn", attention, self.values(regions)).view_as(pixels)
        logits = self.upsampling(self.classify(self.merge(torch.cat((context, pixels), 1))))
        return (logits, self.upsampling(auxiliary)) if self.training else logits


def _projection(inputs: int, outputs: int, size: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
