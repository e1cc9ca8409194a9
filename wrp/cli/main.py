"""The command line: the commands of LightningCLI and those of :mod:`wrp.cli`."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from wrp.cli import (
    autolabel,
    data,
    export,
    export_model,
    init,
    predict_images,
    recipes,
    rectify,
    report,
    search,
    selftrain,
    suggest,
)
from wrp.cli.parser import StrictParser
from wrp.errors import WrpError, in_short, inert
from wrp.io.networks import require_checkpoint
from wrp.io.recipes import with_recipes
from wrp.io.stopping import Terminated, stoppable
from wrp.io.versions import versions

COMMANDS = (
    autolabel.add,
    autolabel.add_demo,
    init.add,
    data.add,
    selftrain.add,
    rectify.add,
    recipes.add,
    search.add,
    export.add,
    export.add_import,
    report.add,
    suggest.add,
    predict_images.add,
    export_model.add,
    export_model.add_weights,
)

LIGHTNING_VERBS = {
    "fit": "train a module",
    "validate": "score a module on the validation data",
    "test": "score a module on the test data",
    "predict": "write the labels that a module predicts",
}

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments after ``wrp``; None: those of the process.

    Returns:
        Exit code: 0 finished, 2 error in usage or input, 3 finished except for clips that were skipped, 130
        interrupted, 143 terminated.

    Example:
        >>> main(["data", "layouts"])  # doctest: +ELLIPSIS
        folder: ...
        0
    """
    given = list(sys.argv[1:] if args is None else args)
    if "--safe" in given[1:2]:  # of LightningCLI's commands; their processes inherit the environment
        os.environ["WRP_SAFE"] = os.environ.get("WRP_SAFE") or "1"  # an empty one would not be safe
        given.remove("--safe")
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        if type(handler.formatter) is logging.Formatter:
            handler.setFormatter(_Inert("%(message)s"))
    logging.getLogger("wrp").setLevel(logging.INFO)
    try:
        with stoppable():
            if given and given[0] in (*LIGHTNING_VERBS, "autolabel"):
                given = with_recipes(given)
            if given and given[0] in LIGHTNING_VERBS:
                _require_files(given)
                if args is None:  # LightningCLI, and the processes that it starts, read those of the process
                    sys.argv[1:] = given
                _lightning(given if args is not None else None)
                return 0
            if given and given[0] == "autolabel":
                return autolabel.run(given[1:])
            if given and given[0] == "selftrain":
                given = selftrain.with_trainer(given)
            options = _parser().parse_args(given or ["--help"])
            return options.run(options) or 0
    except WrpError as error:
        return _mistaken(str(error))
    except (IsADirectoryError, NotADirectoryError) as error:
        print(f"wrp: error: {error}: move away the file or folder that is in the way", file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:  # whoever was reading has ended
        raise
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"wrp: error: {error}; files written so far are complete; run it again to resume", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return _stopped("interrupted", EXIT_INTERRUPTED)
    except Terminated:
        return _stopped("terminated", EXIT_TERMINATED)
    except Exception as error:
        if (mistake := _mistake_in(error)) is None:
            raise
        return _mistaken(mistake)
    except SystemExit as exit_:  # argparse and jsonargparse have printed the reason
        if isinstance(exit_.__context__, KeyboardInterrupt):  # Lightning turns the interrupt into SystemExit
            return _stopped("interrupted", EXIT_INTERRUPTED)
        return exit_.code if isinstance(exit_.code, int) else EXIT_ERROR


class _Inert(logging.Formatter):
    """A formatter that escapes control characters, as names may have some."""

    def format(self, record: logging.LogRecord) -> str:
        return inert(super().format(record))


def _stopped(how: str, code: int) -> int:
    print(f"wrp: {how}; the same command goes on from there", file=sys.stderr)
    return code


# The end of a traceback that another process sends as text: a loader's worker, or a process of `ddp_spawn`.
_SENT = re.compile(r"(?:\A|\n)wrp\.errors\.\w+: (.*)\Z", re.DOTALL)


# Messages of torch about memory, and about a loader's process that the system has ended for want of it.
_ABOUT_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|DataLoader worker \(pid")


def _mistaken(text: str) -> int:
    """Tell a mistake on one line, without the traceback that another process has added, and return the exit code."""
    found = _SENT.search(text) if "Traceback" in text else None
    print(f"wrp: error: {inert(found[1] if found else text).strip()}", file=sys.stderr)
    return EXIT_ERROR


def _mistake_in(error: BaseException) -> str | None:
    """Return the message of the WrpError that another error was made from; None if there is none.

    jsonargparse raises a ValueError from an error that a class raises while it is made. What a process of `ddp_spawn`
    raises arrives as text.
    """
    cause: BaseException | None = error
    while isinstance(cause, ValueError):
        cause = cause.__cause__
    if isinstance(cause, WrpError):
        return str(cause)
    if isinstance(error, MemoryError) or _ABOUT_MEMORY.search(str(error)):
        return f"{in_short(error)}: there is too little memory for this, or a process was ended; files are complete"
    return str(error) if "Traceback" in str(error) and _SENT.search(str(error)) else None


def _require_files(args: Sequence[str]) -> None:
    """Raise WrpError if a file that a command of LightningCLI names is not there: to import that takes seconds."""
    printed = any(word.partition("=")[0] == "--print_config" for word in args)  # nothing is loaded then
    for word, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if "://" in value or Path(value).exists():
            continue
        if flag == "--config" and value.endswith((".yaml", ".yml")):  # else it may be the text of one
            raise WrpError(f"there is no file {value}, which --config names")
        if flag == "--ckpt_path" and value.endswith(".ckpt") and not printed:  # else it may be a word, such as `last`
            require_checkpoint(Path(value))


def _lightning(args: list[str] | None) -> None:
    from wrp.cli.lightning import run

    run(args)


def _parser() -> argparse.ArgumentParser:
    parser = StrictParser(
        prog="wrp",
        description="Dense labels for every frame of a video from a few labelled ones (Warp-Refine Propagation).",
        epilog="fit, validate, test and predict belong to LightningCLI: `wrp fit --help`, `wrp fit --config FILE`, "
        "`wrp fit --recipe NAME`.",
    )
    stack = ", ".join(f"{package} {version}" for package, version in versions().items())
    parser.add_argument("--version", action="version", version=stack)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb, purpose in LIGHTNING_VERBS.items():
        verbs.add_parser(verb, help=purpose, add_help=False)
    for add in COMMANDS:
        add(verbs)
    return parser
