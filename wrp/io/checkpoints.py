"""Checkpoints and weights in files: written, read without running anything, and made modules of."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no other way to put them back
from safetensors import safe_open
from safetensors.torch import save

from wrp.errors import WrpError, in_short
from wrp.io.hubs import hubs_limited
from wrp.io.opening import check_archive, parse_json

# Where a checkpoint says which class made it.
CLASS_KEY = "wrp_class"

FORMAT_KEY = "wrp_format"
FORMAT = 2
"""The format of checkpoints; it grows when arguments are renamed or regrouped. Those of wrp 0.1 have none."""

SEEN_KEY = "wrp_labels_seen"
"""Where a checkpoint holds the hashes of the labels that its networks have learned from."""

WEIGHTS = ".safetensors"
SETTINGS_KEY = "hyper_parameters"

# What a checkpoint may name: nothing in them runs or unpickles what it is given, or asks for anything.
MAY_BE_NAMED = ("wrp", "torch.nn", "torch.optim")

# What a configuration may name under WRP_SAFE; some of it downloads, which the configuration asks for then.
SAFE = (*MAY_BE_NAMED, "pytorch_lightning", "torchmetrics")

# What Lightning's command line notes in a checkpoint, to make a module whose arguments are objects.
MAKER = "pytorch_lightning.cli.instantiate_module"


def class_name(class_: type) -> str:
    """Full name of a class, as it stands in checkpoints and ``class_path``."""
    return f"{class_.__module__}.{class_.__qualname__}"


def check_class(checkpoint: dict[str, Any], wanted: type, path: Path | str = "the checkpoint") -> None:
    """Raise WrpError unless a checkpoint was made by ``wanted``, a subclass or a base of it, in today's format."""
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
    """The class that made a checkpoint, if it is a subclass of the wanted one and trusted, else the wanted one."""
    name = str(checkpoint.get(CLASS_KEY))
    home = name.rpartition(".")[0]
    if any(f"{home}.".startswith(f"{trusted}.") for trusted in ("wrp", *trusted_packages())):
        with contextlib.suppress(ImportError):
            importlib.import_module(home)
    return next((found for found in _subclasses(wanted) if class_name(found) == name), wanted)


def _subclasses(class_: type) -> list[type]:
    children: list[type] = class_.__subclasses__()
    return [s for child in children for s in (child, *_subclasses(child))]


def save_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the weights of a checkpoint as safetensors, with its class and settings, but nothing of its training.

    Args:
        checkpoint: Of a module of this package, see :func:`read_checkpoint`.
        path: File to write.
    """
    # Parameters that two names share are written twice: the format has no such thing.
    tensors = {name: tensor.contiguous().clone() for name, tensor in checkpoint["state_dict"].items()}
    settings = json.dumps(checkpoint.get(SETTINGS_KEY, {}))
    known = {CLASS_KEY: checkpoint[CLASS_KEY], FORMAT_KEY: str(FORMAT), SETTINGS_KEY: settings}
    known[SEEN_KEY] = json.dumps(checkpoint.get(SEEN_KEY, []))
    path.write_bytes(save(tensors, {"format": "pt", **known}))


def read_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """What is in a checkpoint that Lightning wrote, or in the ``.safetensors`` of :func:`save_weights`, on the CPU.

    Nothing in the file is run: it holds tensors and plain values, or is refused.

    Args:
        path: The file.
        mmap: Whether tensors stay on the disk until they are used; damage to them is not seen then.

    Raises:
        WrpError: If the file is missing, damaged, or no checkpoint.
    """
    if not path.is_file():
        raise WrpError(f"there is no checkpoint {path}")
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


def labels_seen_by(path: str | Path) -> frozenset[str]:
    """The hashes of the labels that the networks of a checkpoint have learned from, as far as that is known."""
    return labels_seen_in(read_checkpoint(Path(path), mmap=True), path)


def labels_seen_in(checkpoint: dict[str, Any], path: Path | str = "the checkpoint") -> frozenset[str]:
    """The same of what was read from ``path``; WrpError where it cannot be what this package wrote."""
    seen = checkpoint.get(SEEN_KEY, [])
    if not isinstance(seen, list) or not all(isinstance(label, str) for label in seen):
        raise WrpError(f"{path} is damaged: it does not say which labels it has learned from; train anew")
    return frozenset(seen)


def _read_weights(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        known = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    settings, seen = parse_json(known.get(SETTINGS_KEY, "{}")), parse_json(known.get(SEEN_KEY, "[]"))
    version = int(known[FORMAT_KEY]) if known.get(FORMAT_KEY, "").isdecimal() else None
    about = {CLASS_KEY: known.get(CLASS_KEY), FORMAT_KEY: version, SEEN_KEY: seen}
    return {"state_dict": state, SETTINGS_KEY: settings, **about}


def load_module(module: type[Any], path: str | Path, **changes: Any) -> Any:
    """A LightningModule of this package from its checkpoint, in evaluation mode on the CPU.

    Args:
        module: The class, e.g. ``SegmentationModule``.
        path: Checkpoint that Lightning wrote, or ``.safetensors`` of :func:`save_weights`.
        changes: Arguments of the class that replace the saved ones.

    Raises:
        WrpError: If the file is missing, damaged, or of another class.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    module = _made_by(checkpoint, module)
    check_class(checkpoint, module, path)
    try:
        _check_maker(checkpoint.get(SETTINGS_KEY))
        with imports_limited(class_name(module)), hubs_limited(str(value) for value in changes.values()):
            source = _as_checkpoint(checkpoint) if path.suffix == WEIGHTS else path
            return module.load_from_checkpoint(source, map_location="cpu", weights_only=True, **changes).eval()
    except WrpError as error:
        raise error if str(path) in str(error) else WrpError(f"{path}: {error}") from error
    except Exception as error:  # weights or arguments of another network
        raise WrpError(f"{path} does not fit {module.__name__}: {in_short(error)}") from error


def _as_checkpoint(weights: dict[str, Any]) -> io.BytesIO:
    """What Lightning would have written: it makes arguments that are objects from their names."""
    written = io.BytesIO()
    torch.save({**weights, "pytorch-lightning_version": version("pytorch-lightning")}, written)
    written.seek(0)
    return written


def _check_maker(settings: Any) -> None:
    """Refuse hyper-parameters that name a function to make the module with, which Lightning calls before 2.6.6."""
    maker = settings.get("_instantiator", MAKER) if isinstance(settings, dict) else MAKER
    if maker != MAKER:
        raise WrpError(f"its hyper-parameters want {maker!r} called, expected {MAKER}; do not use this file")


def trusted_packages() -> list[str]:
    """The packages that the environment variable ``WRP_SAFE`` names, besides ``1``, with commas between them.

    Raises:
        WrpError: If one of them is no name of a package.
    """
    names = [name.strip() for name in os.environ.get("WRP_SAFE", "").split(",")]
    named = [name for name in names if name not in ("", "1")]
    for name in named:
        if not all(part.isidentifier() for part in name.split(".")):
            raise WrpError(f"WRP_SAFE names {name!r}; expected 1, or names of packages with commas between them")
    return named


@contextlib.contextmanager
def imports_limited(*further: str) -> Iterator[None]:
    """Within the block, jsonargparse imports nothing but what is in :data:`MAY_BE_NAMED`, in ``WRP_SAFE``, and these.

    A checkpoint that `wrp fit` wrote names the classes of its arguments, and importing one runs its module.
    """
    before = dict(parsing_settings)
    set_parsing_settings(
        import_path_denylist=["*", *SAFE], import_path_allowlist=[*MAY_BE_NAMED, *trusted_packages(), *further]
    )
    try:
        yield
    finally:
        parsing_settings.update(before)
