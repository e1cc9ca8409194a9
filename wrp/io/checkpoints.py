"""Checkpoints and weights in files: writing them, reading them without running code, and making modules of them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import io
import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no other way to restore them
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from wrp.errors import WrpError, in_short
from wrp.io.hubs import hubs_limited
from wrp.io.networks import require_checkpoint, require_network
from wrp.io.opening import check_archive, parse_json
from wrp.structures import LabelMap

# Key in a checkpoint of the class that made it.
CLASS_KEY = "wrp_class"

FORMAT_KEY = "wrp_format"
FORMAT = 2
"""The format of checkpoints, increased when arguments are renamed or regrouped. Those of wrp 0.1 have none."""

SEEN_KEY = "wrp_labels_seen"
"""Key in a checkpoint of the hashes of the labels that its networks were trained on."""

FLOW_KEY = "wrp_flow"
"""Key in a checkpoint of the signature of the flow that a refiner has learned with."""

ENCODER_KEY = "wrp_encoder_weights"
"""Key in a checkpoint that says where the weights came from that the encoder started from; empty: from scratch."""

INFERENCE_KEY = "wrp_inference"
"""Key in a checkpoint of how a segmentation network computes its probabilities, unless it is told otherwise."""

CLASSES_KEY = "wrp_classes"
"""Key in a checkpoint of a segmentation network's classes, in the order of its logits, see :func:`classes_in`."""

WEIGHTS = ".safetensors"
SETTINGS_KEY = "hyper_parameters"

NETWORK_KEY = "net"
"""Name of the argument, and key in the hyper-parameters, of a network of the user's own."""

# Keys that only checkpoints of segmentation networks have.
_OF_SEGMENTERS = (ENCODER_KEY, INFERENCE_KEY, CLASSES_KEY)

# Packages that a checkpoint may name: nothing in them runs or unpickles its arguments, or downloads anything.
MAY_BE_NAMED = ("wrp", "torch.nn", "torch.optim")

# Packages that a configuration may name under WRP_SAFE; some of them download, as the configuration then requests.
SAFE = (*MAY_BE_NAMED, "pytorch_lightning", "torchmetrics", "albumentations")

# What Lightning's command line stores in a checkpoint, to make a module whose arguments are objects.
MAKER = "pytorch_lightning.cli.instantiate_module"


def class_name(class_: type) -> str:
    """Return the full name of a class, as in checkpoints and ``class_path``."""
    return f"{class_.__module__}.{class_.__qualname__}"


def check_class(checkpoint: dict[str, Any], wanted: type, path: Path | str = "the checkpoint") -> None:
    """Raise WrpError unless ``wanted``, a subclass or a base of it made the checkpoint, in the current format."""
    made_by, found = checkpoint.get(CLASS_KEY), checkpoint.get(FORMAT_KEY)
    if made_by is not None and found != FORMAT:  # first, as classes may have moved
        raise WrpError(
            f"{path} has the checkpoint format {found or 1}, this version of wrp reads {FORMAT}: use the version that "
            "wrote it, or train anew"
        )
    family = [class_name(c) for c in wanted.__mro__] + [class_name(c) for c in _subclasses(wanted)]
    if made_by not in family:
        raise WrpError(
            f"{path} holds a {made_by or 'model of another program'}, expected a {class_name(wanted)} or a subclass: "
            "pass the checkpoint of one; a package of yours is imported for it if the environment variable WRP_SAFE "
            "names it"
        )


def _made_by(checkpoint: dict[str, Any], wanted: type[Any]) -> type[Any]:
    """Return the class that made a checkpoint, if it is a trusted subclass of ``wanted``, else ``wanted``."""
    name = str(checkpoint.get(CLASS_KEY))
    home = name.rpartition(".")[0]
    if any(f"{home}.".startswith(f"{trusted}.") for trusted in ("wrp", *trusted_packages())):
        with contextlib.suppress(ImportError):
            importlib.import_module(home)
    return next((found for found in _subclasses(wanted) if class_name(found) == name), wanted)


def _subclasses(class_: type) -> list[type]:
    children: list[type] = class_.__subclasses__()
    return [s for child in children for s in (child, *_subclasses(child))]


def described(network: nn.Module) -> dict[str, Any]:
    """Describe a network of the user's own by its class and arguments, as hyper-parameters do.

    Returns:
        ``class_path`` and ``init_args``: ``{}`` if the class takes no arguments, None if they are not known or the
        class cannot be imported by another program.

    Example:
        >>> described(nn.Identity())
        {'class_path': 'torch.nn.modules.linear.Identity', 'init_args': None}
    """
    kind = type(network)
    plain = kind.__init__ is nn.Module.__init__ or not inspect.signature(kind).parameters
    plain = plain and kind.__module__ != "__main__" and "<" not in kind.__qualname__
    return {"class_path": class_name(kind), "init_args": {} if plain else None}


def network_of(given: nn.Module | dict[str, Any] | None) -> nn.Module | None:
    """Make a network of the user's own from its description in a checkpoint; a network is returned as it is.

    Raises:
        WrpError: If its class may not be imported, or its arguments are not known, see :func:`check_network`.

    Example:
        >>> network_of({"class_path": "torch.nn.Identity", "init_args": {}})
        Identity()
    """
    if given is None or isinstance(given, nn.Module):
        return given
    check_network({NETWORK_KEY: given})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, NETWORK_KEY)
    with imports_limited():
        read = parser.parse_object({NETWORK_KEY: given})
    network: nn.Module = parser.instantiate_classes(read)[NETWORK_KEY]
    return network


def check_network(settings: Any, path: Path | str = "the checkpoint", *allowed: str) -> None:
    """Check that a network of the user's own can be made and that its class may be imported.

    Args:
        settings: The hyper-parameters of a checkpoint.
        path: The file, for the message.
        allowed: Names that may be imported beside those in :data:`MAY_BE_NAMED` and ``WRP_SAFE``.

    Raises:
        WrpError: If one of both is not so.
    """
    network = settings.get(NETWORK_KEY) if isinstance(settings, dict) else None
    if network is None:
        return
    name = str(network.get("class_path") if isinstance(network, dict) else network)
    if not any(f"{name}.".startswith(f"{known}.") for known in (*MAY_BE_NAMED, *trusted_packages(), *allowed)):
        raise WrpError(
            f"{path} was trained with a network of your own, {name}, which is imported only where you allow it: in "
            "Python, pass net=… to load it, as in wrp.load(path, net=MyNet()); elsewhere, set the environment variable "
            f"WRP_SAFE={name.partition('.')[0]}"
        )
    if not isinstance(network, dict) or network.get("init_args") is None:
        raise WrpError(
            f"{path} was trained with a network of your own, {name}, and does not hold its arguments: make it in "
            "configure_network of a subclass, or train by `wrp fit --model.net`; in Python, pass net=… to load it"
        )


def save_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the weights of a checkpoint as safetensors, with its class and settings, but without its training state.

    Args:
        checkpoint: Checkpoint of a module of this package, see :func:`read_checkpoint`.
        path: File to write.
    """
    # Parameters that two names share are written twice: the format has no shared tensors.
    tensors = {name: tensor.contiguous().clone() for name, tensor in checkpoint["state_dict"].items()}
    settings = json.dumps(checkpoint.get(SETTINGS_KEY, {}))
    known = {CLASS_KEY: checkpoint[CLASS_KEY], FORMAT_KEY: str(FORMAT), SETTINGS_KEY: settings}
    known |= {SEEN_KEY: json.dumps(checkpoint.get(SEEN_KEY, [])), FLOW_KEY: checkpoint.get(FLOW_KEY, "")}
    known |= {key: json.dumps(checkpoint[key]) for key in _OF_SEGMENTERS if checkpoint.get(key) is not None}
    path.write_bytes(save(tensors, {"format": "pt", **known}))


def classes_as_plain(label_map: LabelMap) -> dict[str, Any]:
    """Describe classes by plain values, as checkpoints hold them.

    Example:
        >>> classes_as_plain(LabelMap((7,), ("road",), ((128, 64, 128),)))
        {'ids': [7], 'names': ['road'], 'colors': [[128, 64, 128]]}
    """
    colors = [list(color) for color in label_map.colors]
    return {"ids": list(label_map.ids), "names": list(label_map.names), "colors": colors}


def classes_in(checkpoint: dict[str, Any], path: Path | str = "the checkpoint") -> LabelMap | None:
    """Return the classes of a segmentation network from the content of its checkpoint, in the order of its logits.

    Args:
        checkpoint: The content, see :func:`read_checkpoint`.
        path: The file, for the message.

    Returns:
        The classes; None if the checkpoint does not hold them, as those that earlier versions wrote.

    Raises:
        WrpError: If they are not as this package writes them.

    Example:
        >>> label_map = LabelMap((7,), ("road",), ((128, 64, 128),))
        >>> classes_in({CLASSES_KEY: classes_as_plain(label_map)}) == label_map
        True
    """
    found = checkpoint.get(CLASSES_KEY)
    if found is None:
        return None
    try:
        colors = tuple((int(red), int(green), int(blue)) for red, green, blue in found["colors"])
        return LabelMap(tuple(found["ids"]), tuple(map(str, found["names"])), colors)
    except (KeyError, TypeError, ValueError, WrpError) as error:
        raise WrpError(f"{path} is damaged: its classes cannot be read ({in_short(error)}); train anew") from error


def read_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint that Lightning wrote, or a ``.safetensors`` file of :func:`save_weights`, onto the CPU.

    Nothing in the file is run: if it holds more than tensors and plain values, it is refused.

    Args:
        path: The file.
        mmap: Whether tensors stay on the disk until they are used; damage to them is then not noticed.

    Returns:
        The content, with ``state_dict`` and ``hyper_parameters`` among others.

    Raises:
        WrpError: If the file is missing, damaged, or not a checkpoint.
    """
    require_checkpoint(path)
    try:
        if path.suffix == WEIGHTS:
            return _read_weights(path)
        check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except Exception as error:  # a damaged file raises whatever the unpickler met first
        raise WrpError(f"{path} cannot be read as a checkpoint: {in_short(error)}") from error
    if not isinstance(checkpoint, dict):
        raise WrpError(f"{path} cannot be read as a checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def network_hash(path: str | Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what a checkpoint predicts with: weights, class and settings.

    The rest, such as the state of the optimizer and the arguments of the data, does not count.

    Raises:
        WrpError: If the file is missing, damaged, or not a checkpoint.

    Example:
        >>> network_hash("missing.ckpt")
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: there is no checkpoint missing.ckpt
    """
    checkpoint = read_checkpoint(Path(path))
    state = checkpoint.get("state_dict")
    weights = state if isinstance(state, dict) else {}
    tensors = {key: found for key, found in weights.items() if torch.is_tensor(found)}
    told = {key: found for key, found in checkpoint.items() if key == SETTINGS_KEY or str(key).startswith("wrp_")}
    shapes = {str(key): [str(found.dtype), list(found.shape)] for key, found in tensors.items()}
    digest = hashlib.sha256(json.dumps([told, shapes], default=str).encode())
    for found in tensors.values():
        digest.update(found.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def labels_seen_by(path: str | Path) -> frozenset[str]:
    """Return the hashes of the labels that the networks of a checkpoint were trained on, as far as they are known."""
    return labels_seen_in(read_checkpoint(Path(path), mmap=True), path)


def labels_seen_in(checkpoint: dict[str, Any], path: Path | str = "the checkpoint") -> frozenset[str]:
    """Return the hashes of the labels that the networks of a checkpoint were trained on, from its content.

    Args:
        checkpoint: The content, see :func:`read_checkpoint`.
        path: The file, for the message.

    Raises:
        WrpError: If the content is not as this package writes it.
    """
    seen = checkpoint.get(SEEN_KEY, [])
    if not isinstance(seen, list) or not all(isinstance(label, str) for label in seen):
        raise WrpError(f"{path} is damaged: it does not list the labels it was trained on; train anew")
    return frozenset(seen)


def _read_weights(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        known = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    settings, seen = parse_json(known.get(SETTINGS_KEY, "{}")), parse_json(known.get(SEEN_KEY, "[]"))
    version = int(known[FORMAT_KEY]) if known.get(FORMAT_KEY, "").isdecimal() else None
    about = {CLASS_KEY: known.get(CLASS_KEY), FORMAT_KEY: version, SEEN_KEY: seen, FLOW_KEY: known.get(FLOW_KEY, "")}
    about |= {key: parse_json(known[key]) for key in _OF_SEGMENTERS if key in known}
    return {"state_dict": state, SETTINGS_KEY: settings, **about}


def load_module(module: type[Any], path: str | Path, **changes: Any) -> Any:
    """Load a LightningModule of this package from its checkpoint, in evaluation mode on the CPU.

    Args:
        module: The class, e.g. ``SegmentationModule``.
        path: Checkpoint that Lightning wrote, or ``.safetensors`` of :func:`save_weights`.
        changes: Arguments of the class that replace the saved ones.

    Returns:
        The module, of the saved class if that is a trusted subclass.

    Raises:
        WrpError: If the file is missing, damaged, of another class, or of a training that has not ended.
    """
    path = Path(path)
    require_network(path)
    checkpoint = read_checkpoint(path)
    module = _made_by(checkpoint, module)
    check_class(checkpoint, module, path)
    try:
        _check_maker(checkpoint.get(SETTINGS_KEY))
        if NETWORK_KEY not in changes:
            check_network(checkpoint.get(SETTINGS_KEY), path)
        with imports_limited(class_name(module)), hubs_limited(str(value) for value in changes.values()):
            source = _as_checkpoint(checkpoint) if path.suffix == WEIGHTS else path
            return module.load_from_checkpoint(source, map_location="cpu", weights_only=True, **changes).eval()
    except WrpError as error:
        raise error if str(path) in str(error) else WrpError(f"{path}: {error}") from error
    except Exception as error:  # weights or arguments of another network
        raise WrpError(f"{path} does not fit {module.__name__}: {in_short(error)}") from error


def _as_checkpoint(weights: dict[str, Any]) -> io.BytesIO:
    """Return weights as a checkpoint of Lightning, which makes arguments that are objects from their names."""
    written = io.BytesIO()
    torch.save({**weights, "pytorch-lightning_version": version("pytorch-lightning")}, written)
    written.seek(0)
    return written


def _check_maker(settings: Any) -> None:
    """Refuse hyper-parameters that name a function to make the module with, which Lightning calls before 2.6.6."""
    maker = settings.get("_instantiator", MAKER) if isinstance(settings, dict) else MAKER
    if maker != MAKER:
        raise WrpError(f"its hyper-parameters call {maker!r}, expected {MAKER}; do not use this file")


def trusted_packages() -> list[str]:
    """Return the packages that the environment variable ``WRP_SAFE`` names, separated by commas, without ``1``.

    Raises:
        WrpError: If one of them is not the name of a package.
    """
    names = [name.strip() for name in os.environ.get("WRP_SAFE", "").split(",")]
    named = [name for name in names if name not in ("", "1")]
    for name in named:
        if not all(part.isidentifier() for part in name.split(".")):
            raise WrpError(f"WRP_SAFE names {name!r}; expected 1, or names of packages with commas between them")
    return named


@contextlib.contextmanager
def imports_kept() -> Iterator[None]:
    """Let the block change what jsonargparse may import, and take it back afterwards."""
    before = dict(parsing_settings)
    try:
        yield
    finally:
        parsing_settings.update(before)


@contextlib.contextmanager
def imports_safe() -> Iterator[None]:
    """Where ``WRP_SAFE`` is set, let jsonargparse import only :data:`SAFE` and the packages that it names."""
    with imports_kept():
        if os.environ.get("WRP_SAFE"):
            set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*SAFE, *trusted_packages()])
        yield


@contextlib.contextmanager
def imports_limited(*further: str) -> Iterator[None]:
    """Let jsonargparse import only :data:`MAY_BE_NAMED`, ``WRP_SAFE``, and ``further`` within the block.

    A checkpoint that `wrp fit` wrote names the classes of its arguments, and importing one runs its module.
    """
    with imports_kept():
        set_parsing_settings(
            import_path_denylist=["*", *SAFE], import_path_allowlist=[*MAY_BE_NAMED, *trusted_packages(), *further]
        )
        yield
