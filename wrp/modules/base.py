"""What the three LightningModules share: how they are optimised, saved and loaded."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no other way to put them back
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import Self

from wrp.hubs import hubs_limited
from wrp.opening import check_archive, parse_json
from wrp.types import ClipBatch, FrameBatch, WrpError

logger = logging.getLogger("wrp")

OPTIMIZERS = ("adamw", "sgd")

WEIGHTS = ".safetensors"
SETTINGS_KEY = "hyper_parameters"

# What a checkpoint may name, and a configuration under WRP_SAFE: nothing in them runs or unpickles what it is given.
SAFE = ("wrp", "pytorch_lightning", "torch.nn", "torch.optim", "torchmetrics")

# What Lightning's command line notes in a checkpoint, to make a module whose arguments are objects.
MAKER = "pytorch_lightning.cli.instantiate_module"

# Steps between looks at the loss on a GPU, where each waits for the step to end.
LOOK_EVERY = 50


class BaseModule(pl.LightningModule):
    """Base of the package's LightningModules.

    Subclasses override any of the ``configure_*`` methods; networks named in :attr:`frozen` are never trained and never
    saved: they come from their own checkpoint.

    Args:
        optimizer: ``adamw`` or ``sgd`` (momentum 0.9).
        lr: Learning rate at the start; it falls to zero as (1 - step / steps)^0.9.
        weight_decay: Weight decay.

    Raises:
        ValueError: If the optimizer is unknown.
    """

    frozen: tuple[str, ...] = ()

    CLASS_KEY = "wrp_class"
    """Where a checkpoint says which class made it."""

    def __init__(self, optimizer: str, lr: float, weight_decay: float) -> None:
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.scale_lr = False  # whether the learning rate grows with processes and accumulated batches

    def configure_optimizers(self) -> Any:
        """The named optimizer with the "poly" schedule, stepped after every batch."""
        groups = self.parameter_groups()
        more = self.trainer.world_size * self.trainer.accumulate_grad_batches if self.scale_lr else 1
        for group in groups:
            group["lr"] = more * group.get("lr", self.lr)
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, self.lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, self.lr, momentum=0.9, weight_decay=self.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(optimizer, lambda step: (1 - min(step, steps - 1) / steps) ** 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, in the optimizer's groups; those without a learning rate of their own get the module's."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def on_fit_start(self) -> None:
        """Keep the seed of the run, which :meth:`on_train_batch_start` replaces."""
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step, so that a training that goes on is the one it would have been; keep its batch for messages."""
        step = [self._seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))
        self._batch = batch

    def on_before_backward(self, loss: Tensor) -> None:
        """Stop before a loss that is not finite makes the weights so; on a GPU at every fiftieth step, not to wait.

        Raises:
            WrpError: If the loss is not finite; it names the frames of the batch.
        """
        looks = loss.device.type == "cpu" or self.global_step % LOOK_EVERY == 0
        if looks and not torch.isfinite(loss):
            raise WrpError(
                f"the loss is {loss.item()} at step {self.global_step}, frames {frame_names(self._batch)}: lower the "
                "learning rate, or look at these files"
            )

    def train(self, mode: bool = True) -> Self:
        """Switch to training; frozen networks stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            network = getattr(self, name, None)
            if network is not None:
                network.eval()
        return self

    def freeze_part(self, name: str) -> None:
        """Take a frozen network out of training for good."""
        getattr(self, name).requires_grad_(False).eval()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Weights without those of frozen networks."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        skipped = tuple(f"{prefix}{name}." for name in self.frozen)
        return {key: value for key, value in state.items() if not key.startswith(skipped)}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights; those of frozen networks are neither expected nor missed."""
        own = tuple(f"{name}." for name in self.frozen)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith(own)]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(
                f"weights do not fit {type(self).__name__}: missing {missing[:3]}, unexpected "
                f"{result.unexpected_keys[:3]}; was the checkpoint made with other settings?"
            )
        return result

    def teardown(self, stage: str) -> None:
        """Tell how often a shared cache had the flow that was asked for."""
        flow = getattr(self, "flow", None)
        if flow is not None and flow.folder is not None:
            logger.info("%s", flow.summary())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the class, so that a checkpoint is never loaded into another one."""
        checkpoint[self.CLASS_KEY] = class_name(type(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class."""
        check_class(checkpoint, type(self))


def frame_names(batch: Any) -> str:
    """The frames of a batch, for messages."""
    if isinstance(batch, Mapping):
        return ", ".join(frame_names(part) for part in batch.values())
    if isinstance(batch, FrameBatch):
        return ", ".join(f"{clip}/{stem}".lstrip("/") for clip, stem in zip(batch.clips, batch.stems, strict=True))
    if isinstance(batch, ClipBatch):
        return f"{batch.clip}/{batch.stems[batch.targets[0] - batch.first]}"
    return f"of a {type(batch).__name__}"


def file_hash(path: str) -> str:
    """The first 16 digits of the SHA-256 of a checkpoint; WrpError if there is none."""
    if not Path(path).is_file():
        raise WrpError(f"there is no checkpoint {path}")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def class_name(class_: type) -> str:
    """Full name of a class, as it stands in checkpoints and ``class_path``."""
    return f"{class_.__module__}.{class_.__qualname__}"


def check_class(checkpoint: dict[str, Any], wanted: type, path: Path | str = "the checkpoint") -> None:
    """Raise WrpError unless a checkpoint was made by ``wanted``, one of its subclasses or one of its bases."""
    made_by = checkpoint.get(BaseModule.CLASS_KEY)
    family = [class_name(c) for c in wanted.__mro__] + [class_name(c) for c in _subclasses(wanted)]
    if made_by not in family:
        raise WrpError(
            f"{path} holds a {made_by or 'model of another program'}, expected a {class_name(wanted)} or a subclass: "
            "pass the checkpoint of one; a package of yours is imported for it if the environment variable WRP_SAFE "
            "names it"
        )


def _made_by(checkpoint: dict[str, Any], wanted: type[Any]) -> type[Any]:
    """The class that made a checkpoint, if it is a subclass of the wanted one and trusted, else the wanted one."""
    name = str(checkpoint.get(BaseModule.CLASS_KEY))
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
    save_file(
        tensors, path, {"format": "pt", BaseModule.CLASS_KEY: checkpoint[BaseModule.CLASS_KEY], SETTINGS_KEY: settings}
    )


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


def _read_weights(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        known = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    settings = parse_json(known.get(SETTINGS_KEY, "{}"))
    return {"state_dict": state, SETTINGS_KEY: settings, BaseModule.CLASS_KEY: known.get(BaseModule.CLASS_KEY)}


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
            if path.suffix == WEIGHTS:
                made = module(**{**checkpoint[SETTINGS_KEY], **changes})
                made.load_state_dict(checkpoint["state_dict"])
                return made.eval()
            return module.load_from_checkpoint(path, map_location="cpu", weights_only=True, **changes).eval()
    except WrpError as error:
        raise error if str(path) in str(error) else WrpError(f"{path}: {error}") from error
    except Exception as error:  # weights or arguments of another network
        raise WrpError(f"{path} does not fit {module.__name__}: {in_short(error)}") from error


def _check_maker(settings: Any) -> None:
    """Refuse hyper-parameters that name a function to make the module with, which Lightning calls before 2.6.6."""
    maker = settings.get("_instantiator", MAKER) if isinstance(settings, dict) else MAKER
    if maker != MAKER:
        raise WrpError(f"its hyper-parameters want {maker!r} called, expected {MAKER}; do not use this file")


def in_short(error: BaseException) -> str:
    """What an error says, in one short line; its kind, where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


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
    """Within the block, jsonargparse imports nothing but what is in :data:`SAFE`, in ``WRP_SAFE``, and these.

    A checkpoint that `wrp fit` wrote names the classes of its arguments, and importing one runs its module.
    """
    before = dict(parsing_settings)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*SAFE, *trusted_packages(), *further])
    try:
        yield
    finally:
        parsing_settings.update(before)
