"""The base of the LightningModules: how they are optimised, saved and loaded."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import Self

from wrp.errors import WrpError
from wrp.io.checkpoints import CLASS_KEY, FORMAT, FORMAT_KEY, SEEN_KEY, check_class, class_name, labels_seen_in
from wrp.io.outputs import FLOW, check_output
from wrp.options import OptimizerArgs, as_options, make_plain
from wrp.structures import ClipBatch, FrameBatch, RefinerExamples

logger = logging.getLogger("wrp")

# Steps between checks of the loss on a GPU: each check waits for the step to end.
LOOK_EVERY = 50


class BaseModule(pl.LightningModule):
    """Base of the package's LightningModules.

    Subclasses may override any of the ``configure_*`` methods. Networks named in :attr:`frozen` are never trained and
    never saved, as they have checkpoints of their own.

    Args:
        optimizer: Optimiser and learning rates.

    Attributes:
        frozen: Names of the attributes that hold frozen networks.
        labels_seen: The hashes of the labels that its networks were trained on, as far as they are known, see
            :func:`~wrp.io.manifest.label_hash`.

    Example:
        >>> module = BaseModule(OptimizerArgs(lr=0.01))
        >>> module.optimizer.lr, module.labels_seen
        (0.01, frozenset())
    """

    frozen: tuple[str, ...] = ()

    CLASS_KEY = CLASS_KEY
    """Key of a checkpoint that holds the name of the module's class."""

    def __init__(self, optimizer: OptimizerArgs | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.optimizer = as_options(OptimizerArgs, optimizer)
        self.labels_seen: frozenset[str] = frozenset()

    def save_arguments(self, *ignore: str) -> None:
        """Save the arguments of the calling ``__init__`` as hyper-parameters.

        Args:
            ignore: Names of arguments that are not saved: objects, and arguments that concern a single training.
        """
        frame = inspect.currentframe()
        assert frame is not None
        self.save_hyperparameters(ignore=list(ignore), frame=frame.f_back)
        self.save_hyperparameters({"optimizer": asdict(self.optimizer)})  # later versions may have other defaults
        make_plain(self.hparams)

    def configure_optimizers(self) -> Any:
        """Make the optimiser and the "poly" schedule (1 - step / steps)^0.9, stepped after every batch."""
        args, groups = self.optimizer, self.parameter_groups()
        more = self.trainer.world_size * self.trainer.accumulate_grad_batches if args.scale_lr else 1
        for group in groups:
            group["lr"] = more * group.get("lr", args.lr)
        optimizer: torch.optim.Optimizer
        if args.name == "adamw":
            optimizer = torch.optim.AdamW(groups, args.lr, weight_decay=args.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, args.lr, momentum=0.9, weight_decay=args.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(optimizer, lambda step: (1 - min(step, steps - 1) / steps) ** 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters in the optimiser's groups; a group without ``lr`` gets the module's."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def setup(self, stage: str) -> None:
        """Refuse a flow cache inside a folder that data or flow are read from.

        Raises:
            WrpError: If the folder of the flow cache is such a folder, or holds other files.
        """
        flow, data = getattr(self, "flow", None), getattr(self.trainer, "datamodule", None)
        if flow is not None and flow.folder is not None:
            check_output(Path(flow.folder), FLOW, {*flow.reads, *getattr(data, "reads", ())}, "flow cache")

    def on_fit_start(self) -> None:
        """Store the seed of the run, as :meth:`on_train_batch_start` seeds every step."""
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step, so that a resumed training equals an uninterrupted one, and keep the batch for messages."""
        step = [self._seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))
        self._batch = batch

    def on_before_backward(self, loss: Tensor) -> None:
        """Stop before a loss that is not finite spoils the weights.

        On a GPU, only every fiftieth step is checked, as each check waits for the step to end.

        Raises:
            WrpError: If the loss is not finite; the message names the frames of the batch.
        """
        looks = loss.device.type == "cpu" or self.global_step % LOOK_EVERY == 0
        if looks and not torch.isfinite(loss):
            raise WrpError(
                f"the loss is {loss.item()} at step {self.global_step}, frames {frame_names(self._batch)}: lower the "
                "learning rate, or look at these files"
            )

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen networks stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            network = getattr(self, name, None)
            if network is not None:
                network.eval()
        return self

    def freeze_part(self, name: str) -> None:
        """Exclude the network of this attribute from training: no gradients, and evaluation mode."""
        getattr(self, name).requires_grad_(False).eval()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the weights without those of frozen networks."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        skipped = tuple(f"{prefix}{name}." for name in self.frozen)
        return {key: value for key, value in state.items() if not key.startswith(skipped)}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights, without those of frozen networks.

        Raises:
            RuntimeError: If ``strict`` and weights are missing or unexpected.
        """
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
        """Log how often a shared cache held the requested flow."""
        flow = getattr(self, "flow", None)
        if flow is not None and flow.folder is not None:
            logger.info("%s", flow.summary())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the class, the format, and the hashes of the labels seen in training.

        The class is checked on loading, so that a checkpoint is never loaded into another class.
        """
        if self._trainer is not None:
            self.labels_seen |= getattr(self._trainer.datamodule, "labels_seen", frozenset())  # type: ignore[attr-defined]
        checkpoint[self.CLASS_KEY] = class_name(type(self))
        checkpoint[FORMAT_KEY] = FORMAT
        checkpoint[SEEN_KEY] = sorted(self.labels_seen)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the hashes of the labels seen; refuse the checkpoint of another class or format.

        Raises:
            WrpError: If class or format differ.
        """
        check_class(checkpoint, type(self))
        self.labels_seen = labels_seen_in(checkpoint)


def frame_names(batch: Any) -> str:
    """Return the names of a batch's frames, for messages.

    Example:
        >>> images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, dtype=torch.uint8)
        >>> frame_names(FrameBatch(images, labels, ["street", "street"], ["a", "b"], [0, 1]))
        'street/a, street/b'
    """
    if isinstance(batch, Mapping):
        return ", ".join(frame_names(part) for part in batch.values())
    if isinstance(batch, (FrameBatch, RefinerExamples)):
        return ", ".join(f"{clip}/{stem}".lstrip("/") for clip, stem in zip(batch.clips, batch.stems, strict=True))
    if isinstance(batch, ClipBatch):
        return f"{batch.clip}/{batch.stems[batch.queries[0] - batch.first]}"
    return f"of a {type(batch).__name__}"


def file_hash(path: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a checkpoint file.

    Raises:
        WrpError: If there is no such file.

    Example:
        >>> file_hash("missing.ckpt")
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: there is no checkpoint missing.ckpt
    """
    if not Path(path).is_file():
        raise WrpError(f"there is no checkpoint {path}")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
