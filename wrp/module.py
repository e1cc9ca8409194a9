"""What the three LightningModules share: how they are optimised, saved and loaded."""

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
from wrp.io.folders import FLOW, check_output
from wrp.options import OptimizerArgs, as_options, make_plain
from wrp.structures import ClipBatch, FrameBatch, RefinerExamples

logger = logging.getLogger("wrp")

# Steps between looks at the loss on a GPU, where each waits for the step to end.
LOOK_EVERY = 50


class BaseModule(pl.LightningModule):
    """Base of the package's LightningModules.

    Subclasses override any of the ``configure_*`` methods; networks named in :attr:`frozen` are never trained and never
    saved: they come from their own checkpoint.

    Args:
        optimizer: How it is optimised.

    Attributes:
        labels_seen: The hashes of the labels that its networks have learned from, see
            :func:`~wrp.io.manifest.label_hash`, as far as that is known.
    """

    frozen: tuple[str, ...] = ()

    CLASS_KEY = CLASS_KEY
    """Where a checkpoint says which class made it."""

    def __init__(self, optimizer: OptimizerArgs | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.optimizer = as_options(OptimizerArgs, optimizer)
        self.labels_seen: frozenset[str] = frozenset()

    def save_arguments(self, *ignore: str) -> None:
        """Save the arguments of ``__init__`` as hyper-parameters; call it there.

        Args:
            ignore: Arguments that are not saved: objects, and what belongs to one training.
        """
        frame = inspect.currentframe()
        assert frame is not None
        self.save_hyperparameters(ignore=list(ignore), frame=frame.f_back)
        self.save_hyperparameters({"optimizer": asdict(self.optimizer)})  # defaults may be others in a later version
        make_plain(self.hparams)

    def configure_optimizers(self) -> Any:
        """The named optimizer with the "poly" schedule, stepped after every batch."""
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
        """What is trained, in the optimizer's groups; those without a learning rate of their own get the module's."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def setup(self, stage: str) -> None:
        """Refuse a folder for flow where the data are read from."""
        flow, data = getattr(self, "flow", None), getattr(self.trainer, "datamodule", None)
        if flow is not None and flow.folder is not None:
            check_output(Path(flow.folder), FLOW, {*flow.reads, *getattr(data, "reads", ())}, "flow cache")

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
        """Note the class, so that a checkpoint is never loaded into another one, the format, and the labels seen."""
        if self._trainer is not None:
            self.labels_seen |= getattr(self._trainer.datamodule, "labels_seen", frozenset())  # type: ignore[attr-defined]
        checkpoint[self.CLASS_KEY] = class_name(type(self))
        checkpoint[FORMAT_KEY] = FORMAT
        checkpoint[SEEN_KEY] = sorted(self.labels_seen)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class or format."""
        check_class(checkpoint, type(self))
        self.labels_seen = labels_seen_in(checkpoint)


def frame_names(batch: Any) -> str:
    """The frames of a batch, for messages."""
    if isinstance(batch, Mapping):
        return ", ".join(frame_names(part) for part in batch.values())
    if isinstance(batch, FrameBatch):
        return ", ".join(f"{clip}/{stem}".lstrip("/") for clip, stem in zip(batch.clips, batch.stems, strict=True))
    if isinstance(batch, ClipBatch):
        return f"{batch.clip}/{batch.stems[batch.queries[0] - batch.first]}"
    if isinstance(batch, RefinerExamples):
        return f"{batch.clip}/{batch.stem}"
    return f"of a {type(batch).__name__}"


def file_hash(path: str) -> str:
    """The first 16 digits of the SHA-256 of a checkpoint; WrpError if there is none."""
    if not Path(path).is_file():
        raise WrpError(f"there is no checkpoint {path}")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
