"""Run a list of named stages: skip what is done, check inputs and outputs, measure time, log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wrp.errors import DataError, WrpError
from wrp.io.checkpoints import WEIGHTS, read_checkpoint
from wrp.io.opening import read_json
from wrp.io.stopping import check_stop
from wrp.io.writing import checksum, write_json
from wrp.runs.processes import Processes

logger = logging.getLogger("wrp")

RECORD = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Its name, under which its time is recorded.
        inputs: Files that its outputs are made from.
        outputs: Files that it makes; if they all exist, the stage is skipped. If empty, the stage always runs, and does
            what is left of its work.
        run: Does the work; if it returns False, the run ends after this stage.
        what: Message that is logged when it begins; empty: no message.
        alone: Whether the first process does the work while the others wait.

    Example:
        >>> stage = Stage("teacher", (), (Path("out/teacher.ckpt"),), lambda: None, "Training the teacher")
        >>> stage.outputs[0].name
        'teacher.ckpt'
    """

    name: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    run: Callable[[], bool | None]
    what: str = ""
    alone: bool = False


class Runner:
    """Run the stages of a run; their times and input hashes are kept in ``stages.json`` for later calls.

    Every process runs each stage; the first one decides what is done, and keeps the record.

    Args:
        out: Folder of the run; the caller holds its lock.
        processes: The processes of the run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     runner, made = Runner(Path(folder)), Path(folder, "made.json")
        ...     stages = [Stage("make", (), (made,), lambda: write_json(made, [1]))]
        ...     runner.run(stages), runner.run(stages), list(runner.seconds)
        (True, True, ['make'])
    """

    def __init__(self, out: Path, processes: Processes | None = None) -> None:
        self.path = out / RECORD
        self.processes = processes if processes is not None else Processes()
        self.record: dict[str, dict[str, Any]] = {}
        self._read()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, added up over all calls and jobs."""
        return {name: noted["seconds"] for name, noted in self.record.items() if "seconds" in noted}

    def run(self, stages: Sequence[Stage]) -> bool:
        """Run the stages that are not done, and tell whether all stages are done now.

        Raises:
            WrpError: If an output is damaged, or was made from an input that has changed since.
        """
        for stage in stages:
            check_stop()
            if self.processes.first(partial(self._is_done, stage)):
                continue
            if stage.what:
                logger.info("%s", stage.what)
            started = time.perf_counter()
            goes_on = self.processes.first(stage.run) if stage.alone else stage.run()
            self.processes.barrier()
            if self.processes.is_first:
                self.add(stage.name, time.perf_counter() - started)
                self._note_inputs(stage)
            if goes_on is False:
                return False
        return True

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to the time of a stage."""
        self._read()
        noted = self.record.setdefault(name, {})
        noted["seconds"] = round(noted.get("seconds", 0.0) + seconds, 2)
        write_json(self.path, self.record)

    def _is_done(self, stage: Stage) -> bool:
        """Tell whether the outputs exist; one that cannot be used stops the run, as later results depend on it."""
        if not stage.outputs or not all(path.is_file() for path in stage.outputs):
            return False
        for path in stage.outputs:
            if path.suffix in (".ckpt", WEIGHTS):
                try:
                    read_checkpoint(path, mmap=True)
                except WrpError as error:
                    raise WrpError(f"{error}; restore it from a copy, or delete it to train it again") from error
        noted = self.record.get(stage.name, {}).get("inputs")
        if not isinstance(noted, dict):
            self._note_inputs(stage)
            return True
        for name, found in _hashes(stage).items():
            if noted.get(name, found) != found:
                raise WrpError(
                    f"{stage.outputs[0]} was made from a {name} that has changed since: restore that file, or delete "
                    f"{stage.outputs[0].name} to make it again"
                )
        return True

    def _note_inputs(self, stage: Stage) -> None:
        if stage.inputs and stage.outputs:
            self._read()
            self.record.setdefault(stage.name, {})["inputs"] = _hashes(stage)
            write_json(self.path, self.record)

    def _read(self) -> None:
        if not self.path.is_file():
            return
        try:
            found = read_json(self.path, "the recorded times of the stages are lost")
            self.record = {str(name): noted for name, noted in found.items() if _is_record(noted)}
        except DataError as error:
            logger.warning("%s", error)


def _is_record(noted: Any) -> bool:
    """Tell whether this is what was noted of a stage, with the time that it took, if any."""
    if not isinstance(noted, dict):
        return False
    seconds = noted.get("seconds", 0.0)
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < math.inf


def _hashes(stage: Stage) -> dict[str, str]:
    return {path.name: checksum(path.read_bytes()) for path in stage.inputs}
