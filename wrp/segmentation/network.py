"""Segmentation networks: any architecture of segmentation-models-pytorch with any of its or timm's encoders."""

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

# Mean and standard deviation of ImageNet's images (RGB in [0, 1]), on which the encoders' weights were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# The total stride of every encoder used here divides 32; inputs are padded to a multiple of it.
STRIDE = 32

# Least side in pixels: batch normalisation needs feature maps of more than one pixel.
SMALLEST = 2 * STRIDE


class Segmenter(nn.Module):
    """A segmentation network for images of any size.

    It normalises and pads the images. In training, the logits keep the working resolution: otherwise, most of a step at
    half resolution would be spent on scaling them up. In evaluation, they have the size of the images.

    Args:
        net: Maps normalised images (B, 3, h, w), h and w multiples of 32, to logits (B, C, h, w).
        scale: Working resolution: the network gets the images at this magnification.

    Example:
        >>> net = Segmenter(nn.Conv2d(3, 5, 1), scale=0.5)
        >>> net.eval()(torch.zeros(1, 3, 100, 80)).shape, net.train()(torch.zeros(1, 3, 100, 80)).shape
        (torch.Size([1, 5, 100, 80]), torch.Size([1, 5, 50, 40]))
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
        """The encoder, which may have a learning rate of its own or be frozen."""
        encoder: nn.Module = self.net.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute logits (B, C, H, W) of images (B, 3, H, W) float32 RGB in [0, 1].

        In training, the logits are (B, C, h, w) at the working resolution, or a tuple if there are auxiliary logits.
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
    """Features of images for the refiner, from an encoder and a trained decoder of segmentation-models-pytorch.

    Args:
        architecture: Architecture of segmentation-models-pytorch that serves as decoder.
        encoder: Name of the encoder.
        channels: Number of features D.
        frozen: Whether the encoder is not trained.

    Example:
        >>> view = EncoderView("FPN", "tu-regnetx_002", channels=4).eval()
        >>> view(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 4, 64, 64])
    """

    def __init__(self, architecture: str, encoder: str, channels: int, frozen: bool = True) -> None:
        super().__init__()
        self.net = create_segmenter(channels, NetworkArgs(architecture, encoder))
        self.frozen = frozen
        if frozen:
            self.net.encoder.requires_grad_(False).eval()  # now, as Lightning's fit does not call train()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.net.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute features (B, D, H, W) of images (B, 3, H, W) float32 RGB in [0, 1]."""
        features: Tensor = self.net(images)
        return features


def with_features(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the logits of images and the decoder's features, which are the input of its head.

    Args:
        net: A :class:`Segmenter`.
        images: (B, 3, H, W) float32 RGB in [0, 1].

    Returns:
        Logits as :class:`Segmenter` returns them, without auxiliary ones, and features (B, D, h, w) of the image
        without its padding.

    Raises:
        WrpError: If the network is not an encoder-decoder with one head.

    Example:
        >>> net = create_segmenter(3, NetworkArgs("FPN", "tu-regnetx_002")).eval()
        >>> logits, features = with_features(net, torch.zeros(1, 3, 64, 64))
        >>> logits.shape, features.shape
        (torch.Size([1, 3, 64, 64]), torch.Size([1, 128, 16, 16]))
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
    # Features have a fraction of the padded size; those of the padding belong to no pixel of the image.
    height, width = (
        max(1, round(side * have / full)) for side, have, full in zip(working, features.shape[-2:], padded, strict=True)
    )
    return logits, features[..., :height, :width]


def create_segmenter(num_classes: int, network: NetworkArgs) -> Segmenter:
    """Make a segmentation network by name.

    Args:
        num_classes: C.
        network: Architecture, encoder, weights and head.

    Raises:
        WrpError: If a name or option is unknown, the weights cannot be downloaded, or the architecture has no head that
            could be replaced.

    Example:
        >>> net = create_segmenter(3, NetworkArgs("FPN", "tu-regnetx_002", ocr=True)).eval()
        >>> net(torch.zeros(1, 3, 50, 70)).shape
        torch.Size([1, 3, 50, 70])
    """
    # Imported here, as it loads all of timm: half a second that labelling by motion is spared.
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
    if any(mark in encoder for mark in ":/"):  # `hf-hub:` and others: timm fetches the architecture as well
        check_hub(encoder, "the encoder")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # options by which timm finds weights
        for text in texts_in(options.get(key)):
            check_hub(text, f"as options.{key}")
    if "checkpoint_path" in options:  # timm's releases differ in what they unpickle
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
    except Exception as error:  # smp, timm and the hub raise many kinds, network errors included
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
