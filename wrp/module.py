"""The base of the LightningModules: how they are optimised, saved and loaded."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, PolynomialLR
from typing_extensions import Self

from wrp.errors import WrpError
from wrp.io.checkpoints import (
    CLASS_KEY,
    FORMAT,
    FORMAT_KEY,
    NETWORK_KEY,
    SEEN_KEY,
    SETTINGS_KEY,
    check_class,
    class_name,
    described,
    labels_seen_in,
    load_module,
)
from wrp.io.outputs import FLOW, check_output
from wrp.io.published import Card, published_weights, push, write_published
from wrp.io.together import mean_over_processes
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

    _seed: int | None = None
    _trained: frozenset[int] = frozenset()
    _batch: Any = None

    CLASS_KEY = CLASS_KEY
    """Key of a checkpoint that holds the name of the module's class."""

    def __init__(self, optimizer: OptimizerArgs | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.optimizer = as_options(OptimizerArgs, optimizer)
        self.labels_seen: frozenset[str] = frozenset()
        # As hooks, since whoever wraps the module (an average of its weights, DDP) does not call its state_dict.
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_pre_hook(_keep_frozen)

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

    def save_network(self, network: nn.Module | dict[str, Any] | None) -> None:
        """Save the class of a network of the user's own, and its arguments if they are known, as hyper-parameters.

        Args:
            network: The argument ``net`` of the module, an object or what a checkpoint says of it; None: there is none.
        """
        if isinstance(network, nn.Module):
            network = described(network)
            if "_instantiator" in self.hparams:  # the command line knows the arguments
                with contextlib.suppress(KeyError):
                    self.save_hyperparameters(NETWORK_KEY)
                    return
        if network is not None:
            self.save_hyperparameters({NETWORK_KEY: network})

    @property
    def lr(self) -> float:
        """The learning rate at the start; Lightning's learning rate finder reads and sets it."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.optimizer = replace(self.optimizer, lr=lr)
        if "optimizer" in self.hparams:
            self.hparams["optimizer"] = asdict(self.optimizer)

    def configure_optimizers(self) -> Any:
        """Make the optimiser over :meth:`parameter_groups`, and its schedule."""
        groups = self.parameter_groups()
        more = self.trainer.world_size * self.trainer.accumulate_grad_batches if self.optimizer.scale_lr else 1
        for group in groups:
            group["lr"] = more * group.get("lr", self.lr)
        optimizer = self.configure_optimizer(groups)
        return {"optimizer": optimizer, "lr_scheduler": self.configure_schedule(optimizer)}

    def configure_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Make the optimiser; override this method for another one.

        Args:
            groups: The parameters in groups, each with its learning rate.
        """
        args = self.optimizer
        if args.name == "adamw":
            return torch.optim.AdamW(groups, args.lr, weight_decay=args.weight_decay)
        return torch.optim.SGD(groups, args.lr, momentum=0.9, weight_decay=args.weight_decay)

    def configure_schedule(self, optimizer: Optimizer) -> dict[str, Any]:
        """Make the "poly" schedule (1 - step / steps)^power, stepped after every batch; override this for another one.

        Returns:
            Lightning's description of a schedule: ``scheduler``, and when it is stepped.

        Raises:
            WrpError: If the learning rate is to fall until the end of a training that has no end.
        """
        args = self.optimizer
        endless = "the learning rate stays the same with optimizer.power=0, and otherwise depends on"
        steps = 1 if args.power == 0 else self.steps(endless)
        schedule: LRScheduler = PolynomialLR(optimizer, steps, args.power)
        if args.warmup:
            rising = LinearLR(optimizer, start_factor=1 / (args.warmup + 1), total_iters=args.warmup)
            schedule = ChainedScheduler([schedule, rising], optimizer)
        return {"scheduler": schedule, "interval": "step"}

    def steps(self, purpose: str) -> int:
        """Return the number of steps of the training.

        Args:
            purpose: What depends on it, for the message.

        Raises:
            WrpError: If the training has no known end.
        """
        steps = self.trainer.estimated_stepping_batches
        if self.trainer.ckpt_path is not None:
            # Lightning has made the loader for this, before it has read from the checkpoint how far that had come: it
            # would begin the epoch anew. It makes another one.
            self.trainer.fit_loop._combined_loader = None
        if not 0 <= steps < math.inf:
            raise WrpError(f"{purpose} the length of the training, which has no known end: set trainer.max_steps")
        return max(1, int(steps))

    def encoders(self) -> list[nn.Module]:
        """Return the encoders, which have learning rates of their own; subclasses override this."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Group the trained parameters for the optimiser: each layer of an encoder, and all others.

        A group without ``lr`` gets the module's learning rate, one without ``weight_decay`` that of the optimiser.
        """
        args, groups = self.optimizer, list[dict[str, Any]]()
        left = {id(parameter): parameter for parameter in self.parameters() if parameter.requires_grad}
        one_rate = args.encoder_lr == args.layer_decay == 1.0
        if one_rate and args.decay_all:
            return [{"params": list(left.values())}]
        spared = {id(parameter) for parameter in left.values() if parameter.ndim <= 1}
        for encoder in self._encoders_if(needed=not one_rate):
            layers, tokens = _layers(encoder)
            spared |= tokens
            for depth, layer in enumerate([] if one_rate else layers):
                mine = [left.pop(id(parameter)) for parameter in layer if id(parameter) in left]
                groups.append({"params": mine, "lr": args.lr * args.encoder_lr * args.layer_decay**depth})
        groups = [{"params": list(left.values())}, *groups]
        if not args.decay_all:
            groups = [half for group in groups for half in _halves(group, spared)]
        return [group for group in groups if group["params"]]

    def _encoders_if(self, needed: bool) -> list[nn.Module]:
        """Return the encoders; where they are not needed, a network without one is no mistake."""
        try:
            return self.encoders()
        except WrpError:
            if needed:
                raise
            return []

    def setup(self, stage: str) -> None:
        """Refuse a flow cache inside a folder that data or flow are read from; note which parameters DDP will know.

        Raises:
            WrpError: If the folder of the flow cache is such a folder, or holds other files.
        """
        flow, data = getattr(self, "flow", None), getattr(self.trainer, "datamodule", None)
        if flow is not None and flow.folder is not None:
            check_output(Path(flow.folder), FLOW, {*flow.reads, *getattr(data, "reads", ())}, "flow cache")
        self._trained = frozenset(id(parameter) for parameter in self.parameters() if parameter.requires_grad)

    def on_train_start(self) -> None:
        """Thaw what a resumed training had thawed: Lightning's callbacks restore its optimiser, but freeze it again."""
        if self.trainer.ckpt_path is not None:
            for optimizer in self.trainer.optimizers:
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.requires_grad_(True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step, so that a resumed training equals an uninterrupted one, and keep the batch for messages."""
        if self._seed is None:
            self._seed = torch.initial_seed()
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

    def log_loss(self, loss: Tensor, batch_size: int) -> None:
        """Log ``train/loss``, the mean of the losses of all processes.

        It takes one ``all_reduce`` of a number, for which nothing waits; ``sync_dist`` would have all processes meet
        in every step.

        Args:
            loss: The loss of a step, a scalar.
            batch_size: Number of examples of this process.
        """
        self.log("train/loss", mean_over_processes(loss), prog_bar=True, batch_size=batch_size)

    def on_after_backward(self) -> None:
        """Average the gradients of what was thawed over all processes: DDP knows only what was trained at the start."""
        if self.trainer.world_size == 1 or not isinstance(self.trainer.strategy, DDPStrategy):
            return
        thawed = [p for p in self.parameters() if p.grad is not None and id(p) not in self._trained]
        if thawed:
            together = torch.cat([p.grad.flatten() for p in thawed if p.grad is not None])
            torch.distributed.all_reduce(together)
            means = (together / self.trainer.world_size).split([p.numel() for p in thawed])
            for parameter, mean in zip(thawed, means, strict=True):
                parameter.grad = mean.view_as(parameter)

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

    def teardown(self, stage: str) -> None:
        """Forget the seed of the run, and log how often a shared cache held the requested flow."""
        self._seed = None
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
        if (network := checkpoint.get(SETTINGS_KEY, {}).get(NETWORK_KEY)) is not None:
            self.save_network(network)

    def save_pretrained(
        self, folder: str | Path, license: str, data: str = "", scores: Mapping[str, float] | None = None
    ) -> Path:
        """Write the module as a folder to publish: weights, settings, and a model card with its classes.

        Args:
            folder: The folder; new, empty, or written by this method.
            license: The licence of the weights, such as ``cc-by-4.0``.
            data: What it was trained on, for the card.
            scores: Scores in percent by name, for the card.

        Returns:
            The folder, which :meth:`from_pretrained` and :func:`wrp.load` take.

        Raises:
            WrpError: If the folder holds other files, or there is no licence.
        """
        return write_published(self._as_checkpoint(), Path(folder), Card(license, data, scores or {}))

    def push_to_hub(
        self,
        name: str,
        license: str,
        data: str = "",
        scores: Mapping[str, float] | None = None,
        private: bool = True,
    ) -> str:
        """Publish the module on the Hugging Face Hub, as :meth:`save_pretrained` writes it (extra ``hub``).

        Args:
            name: ``<owner>/<model>``; it is made if there is none.
            license: See :meth:`save_pretrained`.
            data: See :meth:`save_pretrained`.
            scores: See :meth:`save_pretrained`.
            private: Whether only its owner sees a model that is made.

        Returns:
            The address of the commit.

        Raises:
            WrpError: If the hub cannot be reached or refuses, or there is no licence.
        """
        return push(self._as_checkpoint(), name, Card(license, data, scores or {}), private)

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None, **changes: Any) -> Self:
        """Load a published module, in evaluation mode on the CPU.

        Args:
            name: A folder of :meth:`save_pretrained`, or ``<owner>/<model>`` on the Hugging Face Hub (extra ``hub``).
            revision: Branch, tag or commit on the hub; None: the newest.
            changes: Arguments of the class that replace the saved ones, such as ``net`` for a network of your own.

        Raises:
            WrpError: If there is no such model, it cannot be downloaded, or it is of another class.
        """
        module: Self = load_module(cls, published_weights(name, revision), **changes)
        return module

    def _as_checkpoint(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the state of a training."""
        checkpoint = {"state_dict": self.state_dict(), SETTINGS_KEY: dict(self.hparams)}
        self.on_save_checkpoint(checkpoint)
        return checkpoint


def _halves(group: dict[str, Any], spared: set[int]) -> list[dict[str, Any]]:
    """Divide a group into the parameters with weight decay and those that are spared it."""
    decayed = [parameter for parameter in group["params"] if id(parameter) not in spared]
    others = [parameter for parameter in group["params"] if id(parameter) in spared]
    return [{**group, "params": decayed}, {**group, "params": others, "weight_decay": 0.0}]


def _layers(encoder: nn.Module) -> tuple[list[list[nn.Parameter]], set[int]]:
    """Return the trained parameters of each layer of an encoder, last layer first, and the ids of those without decay.

    timm knows the layers of its networks (``group_matcher``) and what is spared the weight decay (``no_weight_decay``)
    by their names in the whole network. An encoder that timm has cut out of it has others: ``stages_0.…`` for
    ``stages.0.…``. Layers of other encoders are the children.
    """
    inner = getattr(encoder, "model", encoder)
    inner = getattr(inner, "model", inner)  # in an encoder that timm has wrapped instead
    whole = _whole_network(inner, str(getattr(encoder, "name", "")))
    if whole is None:
        children = [part for part in inner.children() if next(part.parameters(), None) is not None]
        layers = [list(part.parameters()) for part in reversed(children)] or [[]]
        # Parameters outside all layers of the encoder, such as a class token, get the rate of the first layer.
        layers[-1] += encoder.parameters()
        return layers, set()
    from timm.models import group_parameters

    numbers = group_parameters(whole, whole.group_matcher(), reverse=True)
    names = {name.replace(".", "_"): name for name in numbers}
    spares: set[str] = getattr(whole, "no_weight_decay", set)()
    numbered: dict[int, list[nn.Parameter]] = {}
    # What a network holds itself stands before all blocks, though earlier releases of timm miss some of it.
    tokens = {id(parameter) for parameter in inner.parameters(recurse=False)}
    for cut, parameter in inner.named_parameters():
        if parameter.requires_grad:
            name = names.get(cut.replace(".", "_"), cut)
            number = 0 if id(parameter) in tokens else numbers.get(name, max(numbers.values()))
            numbered.setdefault(number, []).append(parameter)
            if any(fnmatch(name, pattern) for pattern in spares):
                tokens.add(id(parameter))
    return [numbered[number] for number in sorted(numbered, reverse=True)], tokens


def _whole_network(inner: nn.Module, name: str) -> Any:
    """Return the network that an encoder of timm was cut out of, or is; None: it is none of timm's."""
    if hasattr(inner, "group_matcher"):
        return inner
    import timm

    if not timm.models.is_model(name):
        return None
    with torch.random.fork_rng([]):
        try:
            with torch.device("meta"):
                whole = timm.create_model(name)
        except RuntimeError:  # some networks of earlier releases compute with their tensors when they are made
            whole = timm.create_model(name)
    return whole if hasattr(whole, "group_matcher") else None


def _leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Remove the weights of frozen networks from a state dict."""
    assert isinstance(module, BaseModule)
    for name in [name for name in state if name.startswith(tuple(f"{prefix}{part}." for part in module.frozen))]:
        del state[name]


def _keep_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the weights of frozen networks, as they are, to a state dict that is loaded."""
    assert isinstance(module, BaseModule)
    for part in module.frozen:
        if isinstance(network := getattr(module, part, None), nn.Module):
            state.update(network.state_dict(prefix=f"{prefix}{part}."))


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
