"""The processes of a run: started once, shared by all of its stages."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import cv2
import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import distributed

from wrp.callbacks.checkpoints import WholeCheckpointIO
from wrp.callbacks.stopping import StopWhenTold
from wrp.errors import WrpError, in_short
from wrp.io.stopping import Terminated
from wrp.io.together import in_turns
from wrp.runs.trainer import check_trainer, make_loggers, quiet_lightning, trainer_arguments

logger = logging.getLogger("wrp")

Result = TypeVar("Result")

# Processes wait for one another at the end of a stage, and the first one writes reports alone: hours are no fault. One
# that has ended is noticed at once.
TIMEOUT = timedelta(days=30)

# Environment variables by which Lightning's launcher tells a process which one it is.
_LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Processes:
    """The processes that carry out a run together, seen from one of them.

    Make them by :func:`launched`; ``Processes()`` is a process alone.

    Args:
        arguments: Arguments of the Trainers of the run.
        fabric: What connects the processes; None: there is one.
        logs: Where loggers write if nothing else is given.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.

    Example:
        >>> alone = Processes()
        >>> alone.first(lambda: "written"), alone.part(["a", "b"]), alone.gather(3)
        ('written', ['a', 'b'], [3])
    """

    def __init__(
        self, arguments: dict[str, Any] | None = None, fabric: Fabric | None = None, logs: Path = Path("logs")
    ) -> None:
        self.arguments = {"accelerator": "auto", "devices": 1} | (arguments or {})
        self.logs = logs
        self._fabric = fabric
        self.rank, self.size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what only one may write."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        if self._fabric is not None:
            return self._fabric.device
        with quiet_lightning():
            device: torch.device = self.trainer().strategy.root_device
        return device

    def trainer(self, *callbacks: pl.Callback, stage: str | None = None, **limits: Any) -> pl.Trainer:
        """Make a Trainer for one stage, on the devices of the run.

        Args:
            callbacks: Callbacks in addition to the user's.
            stage: Name under which its losses and scores are logged; None: nothing is logged.
            limits: Further arguments of the Trainer.
        """
        given = trainer_arguments(self.arguments)
        # Statistics of the whole batch, whatever the number of devices; the CPU has no such layer.
        synchronised = self.size > 1 and self.device.type != "cpu"
        return pl.Trainer(
            **{"sync_batchnorm": synchronised}
            | given
            | {
                "logger": self.loggers(stage) if stage is not None else False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "plugins": [WholeCheckpointIO()],
                "callbacks": [StopWhenTold(), *callbacks, *given.get("callbacks", [])],
            }
            | limits
        )

    def loggers(self, stage: str) -> list[Logger]:
        """Make the user's loggers; the names of what they log begin with the name of the stage."""
        return make_loggers(self.arguments, stage, self.logs)

    def first(self, work: Callable[[], Result]) -> Result:
        """Do work in the first process alone; all return its result, or raise the WrpError that it raises."""
        if self._fabric is None:
            return work()
        found: Result | WrpError | None = None
        if self.is_first:
            try:
                found = work()
            except WrpError as error:
                found = error
        found = self._fabric.broadcast(found)
        if isinstance(found, WrpError):
            raise found
        return found  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self._fabric is not None:
            self._fabric.barrier()

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all processes, in their order, in each of them."""
        if self._fabric is None:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def part(self, items: Sequence[Result]) -> Sequence[Result]:
        """Return the part of the items that this process works on; see :meth:`join`."""
        return items[self.rank :: self.size]

    def join(self, results: Sequence[Result]) -> list[Result]:
        """Join the results for the parts of :meth:`part`, in the order of the items, in each process."""
        return in_turns(self.gather(list(results)))

    def divide(self, batch: int, option: str) -> int:
        """Return the part of a batch that one process takes; WrpError if the processes cannot take equal parts."""
        if batch % self.size:
            raise WrpError(
                f"{option} is the batch of all processes together: expected a multiple of {self.size}, got {batch}"
            )
        return batch // self.size


@contextlib.contextmanager
def launched(arguments: dict[str, Any], shard: str | None = None, logs: Path = Path("logs")) -> Iterator[Processes]:
    """Start the processes of a run, or join those that torchrun or SLURM has started.

    The own launcher starts the same command again for each further device, as Lightning's does.

    Args:
        arguments: Arguments of the Trainer, checked by :func:`~wrp.runs.trainer.check_trainer`.
        shard: The run's shard, ``i/n``: several such jobs on one machine share its GPUs.
        logs: Where loggers write if nothing else is given.

    Raises:
        WrpError: If the arguments cannot be used, or another process of the run fails.

    Example:
        >>> with launched({"accelerator": "cpu"}) as processes:
        ...     processes.size, processes.device
        (1, device(type='cpu'))
    """
    arguments = check_trainer(arguments, shard)
    before = {name: os.environ.get(name) for name in _LAUNCHED}
    fabric = _launch({name: arguments[name] for name in ("accelerator", "devices", "num_nodes") if name in arguments})
    processes = Processes(arguments, fabric, logs)
    if fabric is None:
        yield processes
        return
    cv2.setNumThreads(torch.get_num_threads())
    if not processes.is_first:
        logger.setLevel(logging.WARNING)
    try:
        yield processes
        fabric.barrier()
    except BaseException as error:
        if (reason := _reason(error, fabric)) is not None:
            raise reason from error
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _launch(machines: dict[str, Any]) -> Fabric | None:
    """Start the processes, or join them; None if there is only one."""
    try:
        with quiet_lightning():
            if pl.Trainer(**machines, logger=False, enable_checkpointing=False).world_size == 1:
                return None
            fabric = Fabric(**machines, strategy=DDPStrategy(timeout=TIMEOUT))
            fabric.launch()
            return fabric
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:  # what does not fit the machine
        raise WrpError(f"the processes of the run cannot be started: {in_short(error)}") from error


def _reason(error: BaseException, fabric: Fabric) -> WrpError | None:
    """Return why an error in another process has led to this one, and end the processes that this one has started."""
    children = getattr(fabric.strategy.launcher, "procs", [])
    codes = [child.poll() for child in children]
    for child in children:
        child.kill()  # their files are whole at any time
    failed = [(number, code) for number, code in enumerate(codes, 1) if code not in (None, 0)]
    if isinstance(error, Terminated) and failed:
        return WrpError(f"process {failed[0][0]} of the run ended with code {failed[0][1]}; its message is above")
    if isinstance(error, RuntimeError) and "connection" in str(error).lower():
        return WrpError("another process of the run has ended; its message is above or in its log")
    return None
