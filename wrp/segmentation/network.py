"""Segmentation networks: any architecture of segmentation-models-pytorch on any of its or timm's encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from wrp.errors import WrpError
from wrp.io.hubs import check_hub, texts_in
from wrp.options import NetworkArgs
from wrp.segmentation.heads import OCRHead
from wrp.segmentation.multiscale import AttentionHead, MultiScale

# Statistics of ImageNet's images (RGB in [0, 1]), on which the encoders' weights were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# The total stride of every encoder used here divides 32; inputs are padded to a multiple of it.
STRIDE = 32

# Features of one pixel have no statistics to normalise by.
SMALLEST = 2 * STRIDE


class Segmenter(nn.Module):
    """A segmentation network for images of any size.

    In training its logits keep the working resolution: most of a step at half resolution would otherwise go into
    scaling them up. In evaluation they have the size of the images.

    Args:
        net: Maps normalised images (B, 3, h, w), h and w multiples of 32, to logits (B, C, h, w).
        scale: Working resolution: the network sees the image at this magnification, its logits are scaled back.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.scale = scale
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @property
    def encoder(self) -> nn.Module:
        """The encoder, for what treats it apart."""
        encoder: nn.Module = self.net.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, C, H, W) of images (B, 3, H, W) float32 RGB in [0, 1].

        In training (B, C, h, w), see above, and a tuple of them where the network has auxiliary logits.
        """
        size = images.shape[-2:]
        normalised = (images - self.mean) / self.std
        if self.scale != 1:
            smaller = [max(1, round(side * self.scale)) for side in size]
            normalised = functional.interpolate(normalised, smaller, mode="bilinear", antialias=True)
        height, width = normalised.shape[-2:]
        right, bottom = (max(-side % STRIDE, SMALLEST - side) for side in (width, height))
        padded = functional.pad(normalised, (0, right, 0, bottom))
        given = self.net(padded.contiguous(memory_format=torch.channels_last))
        if isinstance(given, tuple):
            return tuple(logits[..., :height, :width] for logits in given)
        logits = given[..., :height, :width]
        return logits if self.scale == 1 or self.training else functional.interpolate(logits, size, mode="bilinear")


class EncoderView(nn.Module):
    """Features of images by the encoder of a segmentation network and a decoder of smp that learns.

    Args:
        architecture: The decoder, an architecture of segmentation-models-pytorch.
        encoder: Name of the encoder.
        channels: D.
        frozen: Whether the encoder stays as it is.
    """

    def __init__(self, architecture: str, encoder: str, channels: int, frozen: bool = True) -> None:
        super().__init__()
        self.net = create_segmenter(channels, NetworkArgs(architecture, encoder))
        self.frozen = frozen
        if frozen:
            self.net.encoder.requires_grad_(False).eval()  # now, as Lightning's fit switches nothing to training

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.net.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H, W) of images (B, 3, H, W) float32 RGB in [0, 1]."""
        features: Tensor = self.net(images)
        return features


def with_features(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of images, as :class:`Segmenter` gives them, and the decoder's features in front of its head.

    Returns:
        Logits, without auxiliary ones, and features (B, D, h, w) of the same part of the scene: without the padding.

    Raises:
        WrpError: If the network is no encoder-decoder with one head.
    """
    head = getattr(getattr(net, "net", None), "segmentation_head", None)
    if not isinstance(net, Segmenter) or head is None:
        raise WrpError(f"features are those of an encoder-decoder's head, got a {type(net).__name__} without one")
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        given = net(images)
    finally:
        handle.remove()
    logits, features = given[0] if isinstance(given, tuple) else given, seen[0]
    working = [max(1, round(side * net.scale)) for side in images.shape[-2:]]
    padded = [max(-(-side // STRIDE) * STRIDE, SMALLEST) for side in working]
    # Features have a fraction of the padded size; what they say of the padding belongs to no pixel.
    height, width = (
        max(1, round(side * have / full)) for side, have, full in zip(working, features.shape[-2:], padded, strict=True)
    )
    return logits, features[..., :height, :width]


def create_segmenter(num_classes: int, network: NetworkArgs) -> Segmenter:
    """Make a segmentation network by name.

    Args:
        num_classes: C.
        network: Which one.

    Raises:
        WrpError: If a name or option is unknown, the weights cannot be downloaded, or the architecture has no head that
            could be replaced.
    """
    # Here, as it loads all of timm, half a second of which labelling by motion has no need.
    import segmentation_models_pytorch as smp

    architecture, encoder, weights, options = (
        network.arch,
        network.encoder_name,
        network.encoder_weights,
        network.options,
    )
    timm = encoder.startswith("tu-")
    if weights is not None:
        check_hub(weights, "the encoder weights")
        check_hub(encoder, "an encoder with weights,")
    if any(mark in encoder for mark in ":/"):  # `hf-hub:` and others: timm asks for the architecture as well
        check_hub(encoder, "the encoder")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # where timm finds weights
        for text in texts_in(options.get(key)):
            check_hub(text, f"as options.{key}")
    if "checkpoint_path" in options:  # timm's releases have differed in what they unpickle
        raise WrpError("options.checkpoint_path is not read: weights come from a checkpoint of this package, or a name")
    if timm and weights not in (None, "imagenet"):
        raise WrpError(
            f"the encoder {encoder!r} has no weights {weights!r}: expected imagenet or none; other weights of timm are "
            f"part of its name, as in {encoder}.TAG"
        )
    try:
        net = smp.create_model(
            architecture,
            encoder,
            encoder_weights=True if timm and weights else weights,
            in_channels=3,
            classes=num_classes,
            **options,
        )
    except Exception as error:  # smp, timm and the hub raise all sorts, network errors included
        reason = str(error).strip().splitlines() or [type(error).__name__]
        hint = "; encoder_weights=null starts from scratch" if weights else ""
        raise WrpError(
            f"cannot make architecture {architecture!r} with encoder {encoder!r} and weights {weights!r}: "
            f"{reason[0][:300]}{hint}"
        ) from error
    scales = network.attention_scales
    if network.ocr or scales:
        _change_head(net, architecture, num_classes, network.ocr, attention=bool(scales))
    if scales:
        net = MultiScale(net, scales, network.test_scales)
    return Segmenter(net.to(memory_format=torch.channels_last), network.scale)


def _change_head(net: nn.Module, architecture: str, num_classes: int, ocr: bool, attention: bool) -> None:
    head = getattr(net, "segmentation_head", None)
    first = next((layer for layer in head.modules() if isinstance(layer, nn.Conv2d)), None) if head else None
    if head is None or first is None:
        raise WrpError(f"architecture {architecture!r} has no head to replace: leave out ocr and attention_scales")
    channels = first.in_channels
    upsampling = next((layer for layer in head.modules() if isinstance(layer, nn.Upsample)), None)
    if ocr:
        head = OCRHead(channels, num_classes, upsampling=upsampling)
    net.segmentation_head = AttentionHead(head, channels) if attention else head
