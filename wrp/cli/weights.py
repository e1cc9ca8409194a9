"""`wrp weights`."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from wrp.errors import WrpError


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "weights",
        help="write a checkpoint's weights as safetensors",
        description="Write the weights of a checkpoint of this package as safetensors, with its class and settings. "
        "The file has a third of the size, and can be used wherever a checkpoint can, except for --ckpt_path.",
    )
    verb.add_argument("checkpoint", metavar="CKPT", help="checkpoint of one of the package's modules")
    verb.add_argument("--out", metavar="FILE", help="file to write (default: CKPT with the suffix .safetensors)")
    verb.set_defaults(run=_weights)


def _weights(options: argparse.Namespace) -> None:
    from wrp.io.checkpoints import WEIGHTS, read_checkpoint, save_weights
    from wrp.io.outputs import check_file
    from wrp.io.writing import replacing
    from wrp.module import BaseModule

    source = Path(options.checkpoint)
    out = Path(options.out) if options.out else source.with_suffix(WEIGHTS)
    if out.suffix != WEIGHTS:
        raise WrpError(f"--out {out} must end in {WEIGHTS}")
    out = check_file(out, _is_ours, [source.resolve()])
    checkpoint = read_checkpoint(source)
    if checkpoint.get(BaseModule.CLASS_KEY) is None:
        raise WrpError(f"{source} is not a checkpoint of one of the package's modules")
    with replacing(out) as temporary:
        save_weights(checkpoint, temporary)
    print(out)


def _is_ours(path: Path) -> bool:
    from wrp.io.checkpoints import read_checkpoint
    from wrp.module import BaseModule

    with contextlib.suppress(WrpError):
        return read_checkpoint(path).get(BaseModule.CLASS_KEY) is not None
    return False
