"""`wrp predict-images`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wrp.cli.autolabel import EXIT_PARTIAL


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "predict-images",
        help="label images and videos with a trained network",
        description="Write labels, as indexed PNGs in the colours of the classes, and confidence of every image and "
        "every frame of every video in FOLDER, and in the folders below it. Run it again to resume.",
    )
    verb.add_argument("checkpoint", metavar="CKPT", help="student, teacher or other segmentation network, or a run")
    verb.add_argument("source", metavar="FOLDER", help="folder of images and videos, or a single image or video")
    verb.add_argument("--out", required=True, metavar="DIR", help="folder to write labels/ and confidence/ to")
    verb.add_argument("--classes", metavar="FILE", help="classes.yaml, for a checkpoint that does not hold the classes")
    verb.add_argument("--device", help="where to compute, such as cpu or cuda:1 (default: a GPU if there is one)")
    verb.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do about an image that cannot be read: stop, or skip it and end with exit code 3 "
        "(default: %(default)s)",
    )
    verb.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from wrp.data.found import find_images
    from wrp.io.label_map import read_label_map
    from wrp.io.networks import network_in
    from wrp.io.outputs import PREDICTIONS, check_output

    source = Path(options.source)
    images = find_images(source)
    network = network_in(Path(options.checkpoint))
    classes = read_label_map(Path(options.classes)) if options.classes is not None else None
    out = check_output(Path(options.out), PREDICTIONS, {source.resolve()})

    from wrp.runs.predict import predict_images  # here, as it brings torch, which takes seconds

    broken = predict_images(network, images, out, classes, options.device, options.on_error == "skip")
    for name, problem in broken.items():
        print(f"skipped {name}: {problem}")
    print(f"labels: {out / 'labels'}, confidence (white is certain): {out / 'confidence'}")
    return EXIT_PARTIAL if broken else 0
