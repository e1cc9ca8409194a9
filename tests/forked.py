"""Commands in processes of their own, forked from one that has imported everything: a new Python takes seconds to."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread

START = "forkserver"
# It has no threads and has run nothing, so that what is forked from it is as a new process is.
_server = multiprocessing.get_context(START)
_server.set_forkserver_preload(
    ["pytest.__main__", "wrp.cli.lightning", "wrp.runs.autolabel", "segmentation_models_pytorch", "albumentations"]
)


def _command(
    arguments: Sequence[str],
    before: str,
    folder: Path,
    environment: Mapping[str, str],
    output: Sequence[Connection],
    start_method: str,
) -> None:
    """Do what `python -m wrp` does, after some code."""
    multiprocessing.set_start_method(start_method, force=True)  # of its loaders; it is this process's own else
    for number, pipe in enumerate(output, 1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[1:] = arguments
    import torch

    torch.set_num_threads(1)
    exec(before, {})
    from wrp.__main__ import run

    run()


class Forked:
    """A run of `wrp` in a process of its own, which has begun.

    Args:
        arguments: The words behind `wrp`.
        before: Code that the process runs first.
        folder: Its working directory, this process's own by default.
        environment: Its variables of the environment besides this process's.
    """

    def __init__(
        self, arguments: Sequence[str], before: str = "", folder: Path | None = None, **environment: str
    ) -> None:
        self.arguments = list(arguments)
        pipes = [_server.Pipe(duplex=False) for _ in range(2)]
        writers = [writer for _, writer in pipes]
        given = (self.arguments, before, folder or Path.cwd(), {**os.environ, **environment}, writers)
        self.process = _server.Process(target=_command, args=(*given, multiprocessing.get_start_method()))
        self.process.start()
        self._said = [bytearray(), bytearray()]
        self._readers = [
            Thread(target=self._read, args=(pipe, said), daemon=True)
            for (pipe, _), said in zip(pipes, self._said, strict=True)
        ]
        for writer in writers:
            writer.close()
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: Connection, said: bytearray) -> None:
        while content := os.read(pipe.fileno(), 1 << 16):
            said += content
        pipe.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def runs(self) -> bool:
        """Say whether the process has not ended."""
        return self.process.is_alive()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()

    def wait(self, timeout: float = 300) -> CompletedProcess[str]:
        """Wait for its end, and return its code and what it has said; its children may go on and say more."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.kill()
            raise TimeoutError(f"{self.arguments} has not ended after {timeout} s")
        for reader in self._readers:
            reader.join(5)
        return CompletedProcess(self.arguments, code, *(said.decode() for said in self._said))


def wrp(*arguments: str, before: str = "", folder: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """Run `wrp` in a process of its own, after some code, and return its code and what it has said."""
    return Forked(arguments, before, folder, **environment).wait()
