"""Object-contextual representations (Yuan et al., ECCV 2020) as a head for any encoder-decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OCRHead(nn.Module):
    """A segmentation head that compares each pixel with the mean appearance of every class in the image.

    Auxiliary logits define one soft region per class. The representation of a region is the mean of the features,
    weighted by the region; the context of a pixel is the mean of the regions' representations, weighted by their
    similarity to the pixel (Yuan et al., ECCV 2020).

    Args:
        in_channels: Channels D of the decoder's features.
        num_classes: C.
        channels: Channels of the representations.
        keys: Channels in which pixels and regions are compared.
        upsampling: Maps from the resolution of the features to that of the logits, e.g. the upsampling of the replaced
            head; None: the logits have the resolution of the features.

    Example:
        >>> head = OCRHead(in_channels=16, num_classes=3, channels=8, keys=4).eval()
        >>> head(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
        >>> logits, auxiliary = head.train()(torch.zeros(2, 16, 8, 8))
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
        """Compute logits (B, C, h, w) of features (B, D, h', w'); in training, return the auxiliary logits as well."""
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
