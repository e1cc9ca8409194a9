"""The processes of a run: started once, shared by all of its stages."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import cv2
import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import distributed

from wrp.callbacks.bars import StageBar
from wrp.callbacks.checkpoints import WholeCheckpointIO
from wrp.callbacks.stopping import StopWhenTold
from wrp.errors import WrpError, in_short
from wrp.io.together import in_turns
from wrp.runs.trainer import check_trainer, make_loggers, quiet_lightning, trainer_arguments

logger = logging.getLogger("wrp")

Result = TypeVar("Result")
Child = subprocess.Popen[bytes]

# Processes wait for one another at the end of a stage, and the first one writes reports alone: hours are no fault. One
# that has ended is noticed at once.
TIMEOUT = timedelta(days=30)

# Loader processes of each process with a GPU; the number is not measured.
GPU_LOADERS = 4

# Environment variables by which Lightning's launcher tells a process which one it is, and ours who has started it.
_STARTER = "WRP_STARTED_BY"
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
        self._told: WrpError | None = None
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

    def loaders(self, given: int | None) -> int:
        """Return the number of loader processes of this process: that given, or else what suits its device.

        Flow keeps all cores of a CPU busy; a GPU would wait for frames to be decoded.
        """
        if given is not None:
            return given
        return 0 if self.device.type == "cpu" else GPU_LOADERS

    def trainer(
        self, *callbacks: pl.Callback, stage: str | None = None, shown: str | None = None, **limits: Any
    ) -> pl.Trainer:
        """Make a Trainer for one stage, on the devices of the run.

        Args:
            callbacks: Callbacks in addition to the user's.
            stage: Name under which its losses and scores are logged; None: nothing is logged.
            shown: What its progress bar says; None: the name of the stage.
            limits: Further arguments of the Trainer.
        """
        given = trainer_arguments(self.arguments)
        # Statistics of the whole batch, whatever the number of devices; the CPU has no such layer.
        synchronised = self.size > 1 and self.device.type != "cpu"
        own = [one for one in given.get("callbacks", []) if isinstance(one, ProgressBar)]
        hidden = own or (given | limits).get("enable_progress_bar") is False
        bars = [] if hidden else [StageBar(shown or stage or "Scoring")]
        return pl.Trainer(
            **{"sync_batchnorm": synchronised}
            | given
            | {
                "logger": self.loggers(stage) if stage is not None else False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "plugins": [WholeCheckpointIO()],
                "callbacks": [StopWhenTold(), *callbacks, *given.get("callbacks", []), *bars],
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
            self._told = found
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
    fabric, children = _launch(arguments)
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
        if error is processes._told and not processes.is_first:
            raise SystemExit(2) from error  # the first process prints it
        if (reason := _reason(error, children)) is not None:
            raise reason from error
        raise
    finally:
        children.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _launch(arguments: dict[str, Any]) -> tuple[Fabric | None, list[Child]]:
    """Start the processes, or join them; no Fabric if there is only one. Return those started here, too."""
    machines = {name: arguments[name] for name in ("accelerator", "devices", "num_nodes") if name in arguments}
    # With the names of a strategy, of a precision …: a mistake in them is told before anything is done.
    made = ("logger", "callbacks")
    named = {name: value for name, value in arguments.items() if isinstance(value, str) and name not in made}
    trial: dict[str, Any] = named | machines
    if (starter := os.environ.pop(_STARTER, None)) is not None:
        threading.Thread(target=_end_with_starter, args=(int(starter),), daemon=True).start()
    children: list[Child] = []
    try:
        with quiet_lightning():
            if pl.Trainer(**trial, logger=False, enable_checkpointing=False).world_size == 1:
                return None, children
            fabric = Fabric(**machines, strategy=DDPStrategy(timeout=TIMEOUT))
            os.environ[_STARTER] = str(os.getpid())
            threading.Thread(target=_end_with_children, args=(fabric, children), daemon=True).start()
            fabric.launch()
            return fabric, children
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:  # what does not fit the machine
        raise WrpError(f"the processes of the run cannot be started: {in_short(error)}") from error
    finally:
        os.environ.pop(_STARTER, None)


# A process that waits for another one does not return to Python, so that no exception ends it: these two threads do.
# Files are whole at any time.


def _end_with_starter(starter: int) -> None:
    """End this process when the one that has started it is gone."""
    while os.getppid() == starter:
        time.sleep(1)
    os._exit(1)


def _end_with_children(fabric: Fabric, children: list[Child]) -> None:
    """End this process, with a message, when one that it has started has failed; Lightning would kill it without one.

    Args:
        fabric: It starts them.
        children: They are put here, and taken from Lightning, which looks after them from the fifth second on. The
            run is over when they are taken from here.
    """
    started: list[Child] = getattr(fabric.strategy.launcher, "procs", [])
    while len(started) < getattr(fabric.strategy, "num_processes", 1) - 1:
        time.sleep(0.2)
    children[:], started[:] = started, []
    while children:
        if (failed := _failed(children)) is not None:
            time.sleep(5)  # this process notices it, too, if it waits for the other one, and ends in order
            for child in children:
                child.kill()
            print(f"wrp: error: {failed}", file=sys.stderr, flush=True)
            os._exit(2)
        time.sleep(0.2)


def _failed(children: list[Child]) -> str | None:
    """Say which process has failed; None if all go on or have ended well."""
    for number, child in enumerate(children, 1):
        if child.poll():
            return f"process {number} of the run ended with code {child.returncode}; its message, if any, is above"
    return None


def _reason(error: BaseException, children: list[Child]) -> WrpError | None:
    """Return why an error in another process has led to this one, and end the processes that this one has started."""
    failed = _failed(children)
    for child in children:
        child.kill()
    if isinstance(error, RuntimeError) and "connection" in str(error).lower():
        return WrpError(failed or "another process of the run has ended; its message is above or in its log")
    return None
