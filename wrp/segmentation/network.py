"""Segmentation networks: any architecture of segmentation-models-pytorch with any of its or timm's encoders."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from wrp.errors import WrpError
from wrp.io.hubs import check_hub, texts_in
from wrp.options import NetworkArgs
from wrp.segmentation.heads import OCRHead
from wrp.segmentation.multiscale import AttentionHead, MultiScale
from wrp.segmentation.resizing import padded, resize_smoothly, scaled
from wrp.segmentation.weights import IMAGENET, SUFFIXES, load_weights, weights_at_hand

# Mean and standard deviation of ImageNet's images (RGB in [0, 1]), with which most encoders' weights were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Sides are padded to a multiple of 32 pixels, which suits all encoders but vision transformers with other patches.
STRIDE = 32

# Least side in pixels: batch normalisation needs feature maps of more than one pixel.
SMALLEST = 2 * STRIDE


class Segmenter(nn.Module):
    """A segmentation network for images of any size.

    It normalises and pads the images. In training, the logits keep the working resolution: otherwise, most of a step at
    half resolution would be spent on scaling them up. In evaluation, they have the size of the images.

    Args:
        net: Maps normalised images (B, 3, h, w), h and w multiples of ``stride``, to logits (B, C, h, w).
        scale: Working resolution: the network gets the images at this magnification.
        stride: Images are padded to sides that are multiples of this number of pixels.
        statistics: Mean and standard deviation (RGB in [0, 1]) by which images are normalised.
        smallest: Images are padded to sides of this number of pixels, at least.

    Attributes:
        weights_origin: Where the encoder's weights are from, for people; empty: it starts from scratch.

    Example:
        >>> net = Segmenter(nn.Conv2d(3, 5, 1), scale=0.5)
        >>> net.eval()(torch.zeros(1, 3, 100, 80)).shape, net.train()(torch.zeros(1, 3, 100, 80)).shape
        (torch.Size([1, 5, 100, 80]), torch.Size([1, 5, 50, 40]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        scale: float = 1.0,
        stride: int = STRIDE,
        statistics: tuple[Sequence[float], Sequence[float]] = (MEAN, STD),
        smallest: int = SMALLEST,
    ) -> None:
        super().__init__()
        self.weights_origin = ""
        self.net = net
        self.scale = scale
        self.stride = stride
        self.smallest = smallest
        for name, values in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def encoder(self) -> nn.Module:
        """The encoder, which may have a learning rate of its own or be frozen."""
        encoder: nn.Module = self.net.encoder  # type: ignore[assignment]
        return encoder

    @property
    def single_scales(self) -> int:
        """How many of the last auxiliary logits belong to single scales, see :class:`MultiScale`."""
        return len(self.net.scales) if isinstance(self.net, MultiScale) else 0

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute logits (B, C, H, W) of images (B, 3, H, W) float32 RGB in [0, 1].

        In training, the logits are (B, C, h, w) at the working resolution, or a tuple if there are auxiliary logits.
        """
        size = images.shape[-2:]
        normalised = (images - self.mean) / self.std
        if self.scale != 1:
            smaller = [scaled(side, self.scale) for side in size]
            normalised = resize_smoothly(normalised, smaller)
        height, width = normalised.shape[-2:]
        right, bottom = (padded(side, self.stride, self.smallest) - side for side in (width, height))
        seen = functional.pad(normalised, (0, right, 0, bottom))
        given = self.net(seen.contiguous(memory_format=torch.channels_last))
        if isinstance(given, tuple):
            return tuple(_resize(logits, seen.shape[-2:])[..., :height, :width] for logits in given)
        logits = _resize(given, seen.shape[-2:])[..., :height, :width]
        return logits if self.scale == 1 or self.training else functional.interpolate(logits, size, mode="bilinear")


def _resize(logits: Tensor, size: torch.Size) -> Tensor:
    """Resize logits to the size of the images; only those of patches of 14 pixels and the like have another one."""
    return logits if logits.shape[-2:] == size else functional.interpolate(logits, size, mode="bilinear")


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
    working = [scaled(side, net.scale) for side in images.shape[-2:]]
    filled = [padded(side, net.stride, net.smallest) for side in working]
    # Features have a fraction of the padded size; those of the padding belong to no pixel of the image.
    height, width = (
        max(1, round(side * have / full)) for side, have, full in zip(working, features.shape[-2:], filled, strict=True)
    )
    return logits, features[..., :height, :width]


def create_segmenter(num_classes: int, network: NetworkArgs) -> Segmenter:
    """Make a segmentation network by name.

    Args:
        num_classes: C.
        network: Architecture, encoder, weights and head.

    Raises:
        WrpError: If a name or option is unknown, the weights cannot be read or downloaded or do not fit, or the
            architecture has no head that could be replaced.

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
    if any(mark in encoder for mark in ":/"):  # `hf-hub:` and others: timm fetches the architecture as well
        check_hub(encoder, "the encoder")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # options by which timm finds weights
        for text in texts_in(options.get(key)):
            check_hub(text, f"as options.{key}")
    if "checkpoint_path" in options:  # timm's releases differ in what they unpickle
        raise WrpError("options.checkpoint_path is not read: weights come from a checkpoint of this package, or a name")
    made_with = {**_any_size(encoder), **options} if timm else options
    at_hand = weights_at_hand(encoder, weights, _of_encoder(architecture, made_with))
    if weights is not None and at_hand is None:
        check_hub(weights, "the encoder weights")
        check_hub(encoder, "an encoder with weights,")
    if timm and at_hand is None and weights not in (None, IMAGENET):
        raise WrpError(
            f"the encoder {encoder!r} has no weights {weights!r}: expected imagenet, a file ({', '.join(SUFFIXES)}) or "
            f"none; other weights of timm are part of its name, as in {encoder}.TAG"
        )
    try:
        net = smp.create_model(
            architecture,
            encoder,
            encoder_weights=None if at_hand is not None else (True if timm and weights else weights),
            in_channels=3,
            classes=num_classes,
            **made_with,
        )
    except Exception as error:  # smp, timm and the hub raise many kinds, network errors included
        reason = str(error).strip().splitlines() or [type(error).__name__]
        hint = "; encoder_weights=null starts from scratch" if weights else ""
        raise WrpError(
            f"cannot make architecture {architecture!r} with encoder {encoder!r} and weights {weights!r}: "
            f"{reason[0][:300]}{hint}"
        ) from error
    if at_hand is not None:
        load_weights(net.encoder, at_hand)
    _fit_patches(net)
    _freeze_unused(net.encoder)
    _let_one_value_pass(net)
    scales, stride, smallest = network.attention_scales, _stride_of(net), _smallest_of(net)
    if network.ocr or scales:
        _change_head(net, architecture, num_classes, network.ocr, attention=bool(scales))
    if scales:
        net = MultiScale(net, scales, network.test_scales, stride)
    net = net.to(memory_format=torch.channels_last)
    net = Segmenter(net, network.scale, stride, _statistics(encoder), smallest)
    net.weights_origin = at_hand.source if at_hand is not None else f"{weights}, downloaded" if weights else ""
    return net


def _statistics(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and deviation of the images that an encoder was trained on; they follow from its name alone."""
    import timm

    found = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    return (MEAN, STD) if found is None else (found.mean, found.std)


def _any_size(encoder: str) -> dict[str, Any]:
    """Return the options by which a timm model whose images have one size, as many transformers, takes all sizes."""
    import timm

    if not timm.models.is_model(encoder.removeprefix("tu-")):
        return {}
    home = sys.modules[timm.models.model_entrypoint(encoder.removeprefix("tu-")).__module__]
    # Hybrids are made of the transformer of another module.
    models = [f for f in vars(home).values() if isinstance(f, type) and f.__module__.startswith("timm.models.")]
    known = {name for model in models for base in model.__mro__ for name in inspect.signature(base).parameters}
    if "strict_img_size" in known:
        return {"strict_img_size": False}
    return {"dynamic_img_size": True} if "dynamic_img_size" in known else {}


def _of_encoder(architecture: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return those options of a network that its architecture passes on to timm."""
    import segmentation_models_pytorch as smp

    found = smp.MODEL_ARCHITECTURES_MAPPING.get(architecture.lower())
    known = inspect.signature(found).parameters if found is not None else options
    return {name: value for name, value in options.items() if name not in known}


def _stride_of(net: Any) -> int:
    """Return the number of which the sides of a network's images must be multiples."""
    encoder = net.encoder
    # MaxViT divides the features of all stages, the last one too, into windows, and into a grid of the same size.
    windows = [max(part.partition_size) for part in encoder.modules() if hasattr(part, "partition_size")]
    if windows:
        return STRIDE * max(windows)
    # The features of a vision transformer all have one size, a pixel for each patch, which DPT halves.
    needed: int = encoder.output_stride * (2 if hasattr(encoder, "output_strides") else 1)
    return STRIDE if STRIDE % needed == 0 else needed


def _smallest_of(net: Any) -> int:
    """Return the least side in pixels of a network's images."""
    from segmentation_models_pytorch.decoders.pan.decoder import FPABlock

    # PAN halves the last features three times, and normalises batches of what is left, which is to be 2 x 2 pixels.
    halved = any(isinstance(part, FPABlock) for part in net.modules())
    return 16 * int(net.encoder.output_stride) if halved else SMALLEST


def _fit_patches(net: Any) -> None:
    """Replace the blocks by which DPT scales the features of patches whose side is no power of two.

    It scales by whole numbers, for which it takes a side of 14 pixels for one of 12, 8 or 16, so that its features do
    not fit each other. Here it is taken for 16, and the logits are 16/14 as large as the images.
    """
    strides = getattr(net.encoder, "output_strides", [])
    if all(math.log2(stride).is_integer() for stride in strides):
        return
    from segmentation_models_pytorch.decoders.dpt.decoder import ReassembleBlock

    for depth, (stride, block) in enumerate(zip(strides, net.decoder.reassemble_blocks, strict=True)):
        before, after = block.project_to_out_channel, block.project_to_feature_dim
        factor = 2 ** (round(math.log2(stride)) - depth - 2)
        channels = before.in_channels, before.out_channels, after.out_channels
        net.decoder.reassemble_blocks[depth] = ReassembleBlock(*channels, factor)
    net.initialize()


def _freeze_unused(encoder: Any) -> None:
    """Freeze what a vision transformer has behind its last features, as its classifier: DDP expects gradients of all.

    It is not taken out, so that the names of the tensors stay those of timm.
    """
    model: Any = getattr(encoder, "model", None)
    indices = getattr(encoder, "_output_indices", None)  # timm itself takes it out of the others
    if indices is None or not hasattr(model, "prune_intermediate_layers"):
        return
    pruned = copy.copy(model)
    pruned._modules = dict(model._modules)  # replaced in the copy alone
    pruned.prune_intermediate_layers(list(indices), prune_norm=True, prune_head=True)
    used = {id(parameter) for parameter in pruned.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics where a batch has one value per channel.

    There are no others behind a pooling to one pixel (DeepLabV3, PSPNet) in a batch of one image, such as the last of
    an epoch, which PyTorch refuses.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or values.numel() > values.shape[1]:
            return super().forward(values)
        return functional.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _let_one_value_pass(net: nn.Module) -> None:
    for pooled in [part for part in net.modules() if any(map(_pools_all, part.children()))]:
        for norm in pooled.modules():
            if type(norm) is nn.BatchNorm2d:
                norm.__class__ = _BatchNorm


def _pools_all(part: nn.Module) -> bool:
    return isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1))


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
