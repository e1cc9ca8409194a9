"""`wrp export-model`, and `wrp weights`, its name in wrp 0.1."""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrp.errors import WrpError

if TYPE_CHECKING:
    from wrp.structures import LabelMap

logger = logging.getLogger("wrp")

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx"}
"""Suffixes of the formats."""


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "export-model",
        help="write a network as ONNX, or its weights as safetensors",
        description="Write a segmentation network as ONNX, for programs without PyTorch (extra onnx), or the weights "
        "of any checkpoint of this package as safetensors, which have a third of its size and can be used wherever it "
        "can, except for --ckpt_path. Names and colours of the classes are in the file.",
    )
    verb.add_argument("checkpoint", metavar="CKPT", help="checkpoint of one of the package's modules, or a run")
    verb.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="format of the file")
    verb.add_argument("--out", metavar="FILE", help="file to write (default: CKPT with the suffix of the format)")
    verb.add_argument("--classes", metavar="FILE", help="classes.yaml, for a checkpoint that does not hold the classes")
    verb.set_defaults(run=_export)


def add_weights(verbs: Any) -> None:
    """Add the name that the command had in wrp 0.1 to the parser of `wrp`."""
    verb = verbs.add_parser("weights", help="the old name of `wrp export-model --format safetensors`")
    verb.add_argument("checkpoint", metavar="CKPT", help="checkpoint of one of the package's modules")
    verb.add_argument("--out", metavar="FILE", help="file to write (default: CKPT with the suffix .safetensors)")
    verb.set_defaults(run=_weights, format="safetensors", classes=None)


def _weights(options: argparse.Namespace) -> None:
    logger.warning(
        "wrp weights is now called wrp export-model --format safetensors; the old name will be removed in a later "
        "version"
    )
    _export(options)


def _export(options: argparse.Namespace) -> None:
    from wrp.io.label_map import read_label_map
    from wrp.io.networks import network_in
    from wrp.io.outputs import check_file
    from wrp.io.writing import replacing

    source, suffix = network_in(Path(options.checkpoint)), SUFFIXES[options.format]
    out = Path(options.out) if options.out else source.with_suffix(suffix)
    if out.suffix != suffix:
        raise WrpError(f"--out {out} must end in {suffix}")
    classes = read_label_map(Path(options.classes)) if options.classes is not None else None
    out = check_file(out, _is_ours, [source.resolve()])
    write = _write_onnx if options.format == "onnx" else _write_weights
    with replacing(out) as temporary:
        write(source, temporary, classes)
    print(out)


def _write_onnx(source: Path, out: Path, classes: LabelMap | None) -> None:
    from wrp.segmentation.export import export_onnx
    from wrp.segmentation.labeler import load

    export_onnx(load(source, classes=classes, device="cpu"), out)


def _write_weights(source: Path, out: Path, classes: LabelMap | None) -> None:
    from wrp.io.checkpoints import CLASSES_KEY, classes_as_plain, read_checkpoint, save_weights
    from wrp.module import BaseModule

    checkpoint = read_checkpoint(source)
    if checkpoint.get(BaseModule.CLASS_KEY) is None:
        raise WrpError(f"{source} is not a checkpoint of one of the package's modules")
    if classes is not None:
        checkpoint[CLASSES_KEY] = classes_as_plain(classes)
    save_weights(checkpoint, out)


def _is_ours(path: Path) -> bool:
    from wrp.io.checkpoints import CLASSES_KEY, read_checkpoint
    from wrp.module import BaseModule

    if path.suffix == SUFFIXES["onnx"]:  # the key of the metadata is plain text in the file
        return CLASSES_KEY.encode() in path.read_bytes()
    with contextlib.suppress(WrpError):
        return read_checkpoint(path).get(BaseModule.CLASS_KEY) is not None
    return False
