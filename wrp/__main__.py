"""``python -m wrp`` and the console script ``wrp``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, TextIO

# Exit code of a command whose reader has ended, as that of a program which the signal SIGPIPE ends.
EXIT_PIPE = 141

# Rounds for which a waiting thread of OpenMP spins: by default, where other programs want the cores, a training step
# takes half as long again. Chosen by experiments/benchmarks/spinning.py.
SPINS = "10000"


class _Inert:
    """A standard stream that escapes control characters: names of files and classes may have some."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, of which a terminal shows every character."""
        from wrp.errors import inert

        return self._stream.write(inert(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run() -> None:
    """Run the command line and exit with its code."""
    for handle, name in ((1, "stdout"), (2, "stderr")):
        given = getattr(sys, name)
        if given is None:  # it was closed
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the end
        else:  # what a terminal's encoding lacks, and names that are no UTF-8, are shown escaped
            stream = open(handle, "w", 1, given.encoding, "backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    sys.stdout = _Inert(sys.stdout)
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):  # before torch loads OpenMP
        os.environ["GOMP_SPINCOUNT"] = SPINS
    from wrp.cli.main import main

    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the end of Python would try to flush once more
        code = EXIT_PIPE
    if hasattr(signal, "SIGCHLD"):  # a loader that the same signal ended would be an error of torch's, and another code
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.exit(code)


if __name__ == "__main__":
    run()
