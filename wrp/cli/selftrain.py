"""`wrp selftrain`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wrp.errors import WrpError
from wrp.io.opening import parse_yaml


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "selftrain",
        help="train on labelled and unlabelled images: ST, ST++, CISC-R, Three-Stage, UniMatch, UniMatch V2",
        description="Run all stages of a semi-supervised system. Run it again to resume: finished stages are skipped. "
        "A line of a list is the name of an image, or the paths of an image and its label below ROOT, as in the split "
        "files that other programs publish.",
    )
    verb.add_argument("system", help="supervised, st, st++, cisc-r, three-stage, unimatch or unimatch-v2")
    verb.add_argument("root", help="data set; also searched for below WRP_DATA")
    verb.add_argument("--labelled", required=True, metavar="LIST", help="file with the names of the labelled images")
    verb.add_argument("--unlabelled", required=True, metavar="LIST", help="file with the names of unlabelled images")
    verb.add_argument("--val", required=True, metavar="LIST", help="file with the names of the images to score on")
    verb.add_argument("--out", required=True, help="folder to write to")
    verb.add_argument(
        "--layout", default="folder", help="folder, voc, cityscapes, coco or camvid (default: %(default)s)"
    )
    verb.add_argument("--supervised", metavar="CKPT", help="network to use instead of training the first stage")
    verb.add_argument("--steps", type=int, metavar="N", help="training steps of each stage (default 2000)")
    verb.add_argument("--crop-size", type=int, nargs=2, metavar=("H", "W"), help="size in pixels (default 192 288)")
    verb.add_argument("--batch-size", type=int, metavar="N", help="labelled and unlabelled crops per step (default 4)")
    verb.add_argument("--architecture", help="architecture in segmentation-models-pytorch (default FPN)")
    verb.add_argument("--encoder", help="encoder in segmentation-models-pytorch or timm (default tu-regnetx_002)")
    verb.add_argument(
        "--weights",
        help="encoder weights: imagenet, a file, or none (the default: from scratch); they want a lower --lr",
    )
    verb.add_argument("--scale", type=float, help="working resolution of the network as a ratio (default 1)")
    verb.add_argument("--lr", type=float, help="learning rate at the start (default 0.005)")
    verb.add_argument(
        "--encoder-lr", type=float, metavar="RATIO", help="learning rate of the encoder relative to --lr (default 1)"
    )
    verb.add_argument("--workers", type=int, metavar="N", help="processes that load data (default 0; 4 on a GPU)")
    verb.add_argument(
        "--trainer",
        type=parse_yaml,
        default={},
        metavar="ARGUMENTS",
        help="arguments of Lightning's Trainer for all stages, each as --trainer.NAME VALUE, such as "
        "--trainer.devices 8; batches are those of all devices together",
    )
    verb.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    verb.set_defaults(run=_selftrain)


def with_trainer(args: Sequence[str]) -> list[str]:
    """Join arguments ``--trainer.NAME VALUE`` to one argument ``--trainer``.

    Example:
        >>> with_trainer(["st", "--trainer.devices", "8", "voc", "--trainer.precision=bf16-mixed"])
        ['st', 'voc', '--trainer', '{"devices": 8, "precision": "bf16-mixed"}']
    """
    left, rest, trainer = list(args), [], {}
    while left:
        name, equals, value = left.pop(0).partition("=")
        if not name.startswith("--trainer."):
            rest.append(name + equals + value)
            continue
        if not equals and not left:
            raise WrpError(f"{name} needs a value")
        trainer[name.removeprefix("--trainer.")] = parse_yaml(value if equals else left.pop(0))
    return [*rest, "--trainer", json.dumps(trainer)] if trainer else rest


def _selftrain(options: argparse.Namespace) -> None:
    from wrp.io.writing import follow_links
    from wrp.runs.selftrain.config import FLAGS, Lists, SelfTraining
    from wrp.runs.selftrain.early import check_early

    given = {key: value for key, value in vars(options).items() if key != "run" and value is not None}
    groups: dict[str, dict[str, Any]] = {"lists": {}, "sampling": {}, "network": {}}
    for flag, setting in FLAGS.items():
        group, _, name = setting.rpartition(".")
        if group and (key := flag.replace("-", "_")) in given:
            groups[group][name] = given.pop(key)
    sampling, network = groups["sampling"], groups["network"]
    if "crop_size" in sampling:
        sampling["crop_size"] = tuple(sampling["crop_size"])
    if network.get("encoder_weights") == "none":
        network["encoder_weights"] = None
    if "arch" in network:
        network["options"] = {}
    out = follow_links(Path(options.out))
    settings = SelfTraining(
        lists=Lists(**groups["lists"]),
        sampling=replace(SelfTraining.sampling, **sampling),
        network=replace(SelfTraining.network, **network),
        **given | {"out": str(out)},
    )
    check_early(settings)

    from wrp.io.progress import rank
    from wrp.runs.selftrain.run import selftrain

    metrics = selftrain(settings)
    if rank() > 0:
        return
    print(f"mIoU {metrics['scores']['miou']:.2f}")
    print(f"network: {out / metrics['network']}")
