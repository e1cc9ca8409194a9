"""The command line: LightningCLI's verbs, and autolabel and demo."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrp.types import WrpError

if TYPE_CHECKING:
    from wrp.pipeline.settings import Settings

LIGHTNING_VERBS = {
    "fit": "train a module",
    "validate": "score a module on the validation data",
    "test": "score a module on the test data",
    "predict": "write a module's labels",
}

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments; None: those of the process.

    Returns:
        Exit code: 0 done, 2 an error in usage or input, 130 interrupted.
    """
    given = list(sys.argv[1:] if args is None else args)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("wrp").setLevel(logging.INFO)
    try:
        if given and given[0] in LIGHTNING_VERBS:
            _lightning(given if args is not None else None)
        else:
            options = _parser().parse_args(given or ["--help"])
            options.run(options)
    except WrpError as error:
        print(f"wrp: error: {_message(error)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("wrp: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SystemExit as exit_:  # argparse and jsonargparse have said why
        return exit_.code if isinstance(exit_.code, int) else EXIT_ERROR
    return 0


def _message(error: WrpError) -> str:
    """The message; a loader's worker process wraps it into its traceback."""
    text = str(error)
    marker = f"{type(error).__name__}: "
    return text.rsplit(marker, 1)[-1].strip() if "Original Traceback" in text else text


def _lightning(args: list[str] | None) -> None:
    from wrp.lightning_cli import run

    run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wrp",
        description="Dense labels for every frame of a video from a few labelled ones (Warp-Refine Propagation).",
        epilog="fit, validate, test and predict are LightningCLI's: `wrp fit --help`, `wrp fit --config FILE`.",
    )
    parser.add_argument("--version", action="version", version=f"wrp {version('wrp')}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb, purpose in LIGHTNING_VERBS.items():
        verbs.add_parser(verb, help=purpose, add_help=False)
    _add_autolabel(verbs)
    _add_demo(verbs)
    _add_data(verbs)
    _add_selftrain(verbs)
    _add_rectify(verbs)
    return parser


def _add_autolabel(verbs: Any) -> None:
    verb = verbs.add_parser(
        "autolabel",
        help="label every frame of a data set's clips",
        description="Label every frame: train a teacher and a refiner on the labelled frames, propagate their labels, "
        "write labels, confidence, a manifest and a report. Run it again to resume; steps that are done are skipped.",
    )
    verb.add_argument("root", help="data set: frames/<clip>/ with labels/<clip>/ and classes.yaml, CamVid, or DAVIS")
    verb.add_argument("--out", required=True, help="folder to write to")
    verb.add_argument(
        "--layout", default="auto", help="auto or the name of a layout, see `wrp data layouts` (default: %(default)s)"
    )
    verb.add_argument("--split", help="split of the data set (default: the layout's)")
    verb.add_argument("--clips", help="names of clips, comma-separated (default: all)")
    verb.add_argument("--label-every", type=int, metavar="K", help="hide all labels but every K-th; score the others")
    verb.add_argument(
        "--label-offset", type=int, default=0, metavar="O", help="number of the first label kept (default 0)"
    )
    verb.add_argument("--anchors", metavar="FILE", help="keep the labels it lists, lines CLIP/FRAME; score the others")
    verb.add_argument(
        "--methods",
        default="motion,semantic,inpaint,refine",
        help="comma-separated; the last one is the result; also copy, vote, vote-once and refine-steps, and all but "
        "semantic as METHOD:previous or METHOD:nearest (default: %(default)s)",
    )
    verb.add_argument("--teacher", metavar="CKPT", help="checkpoint of a SegmentationModule instead of training one")
    verb.add_argument("--refiner", metavar="CKPT", help="checkpoint of a RefinementModule instead of training one")
    verb.add_argument(
        "--weights",
        default="auto",
        help="encoder weights of the teacher: auto (ImageNet's if they can be had, else none), none, or a name",
    )
    verb.add_argument("--teacher-steps", type=int, metavar="N", help="training steps of the teacher")
    verb.add_argument(
        "--teacher-share",
        type=float,
        metavar="P",
        help="share of the teacher's crops that come from frames labelled by motion (default 0)",
    )
    verb.add_argument(
        "--teacher-folds",
        type=int,
        metavar="N",
        help="train N further teachers, each without a share of the labels, for the refiner to learn from (default 0)",
    )
    verb.add_argument("--refiner-steps", type=int, metavar="N", help="training steps of the refiner")
    verb.add_argument(
        "--student", action="store_true", help="train a network on all frames in the end: DIR/student.ckpt"
    )
    verb.add_argument(
        "--flow-cache",
        metavar="DIR",
        help="keep optical flow there, to be shared between runs (default: in --out, deleted in the end)",
    )
    verb.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="P", help="write 255 where a label is less confident"
    )
    verb.add_argument(
        "--shard",
        metavar="I/N",
        help="label one of N shares of the intervals, for N jobs with one --out; networks "
        "and calibration have to be there: run once with --limit 0 before",
    )
    verb.add_argument("--limit", type=int, metavar="N", help="label at most N intervals this time; 0: train only")
    verb.add_argument("--seed", type=int, default=0, help="seed of everything that is random (default: %(default)s)")
    verb.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    verb.set_defaults(run=_autolabel)


def _add_demo(verbs: Any) -> None:
    verb = verbs.add_parser(
        "demo",
        help="autolabel a generated street scene",
        description="Generate a street scene with known truth, propagate every 12th label, and score the other frames.",
    )
    verb.add_argument("--out", default="wrp-demo", help="folder to write to (default: %(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the scene and the trainings (default: %(default)s)")
    verb.set_defaults(run=_demo)


def _add_data(verbs: Any) -> None:
    data = verbs.add_parser("data", help="check a data set, or generate one").add_subparsers(
        metavar="WHAT", required=True
    )
    check = data.add_parser("check", help="read every file of a data set and say what is there and what is broken")
    check.add_argument("root", help="data set, looked for below WRP_DATA as well")
    check.add_argument("--layout", default="auto", help="auto or the name of a layout (default: %(default)s)")
    check.add_argument("--split", help="split of the data set (default: the layout's)")
    check.add_argument("--threads", type=int, default=2, help="files read at the same time (default: %(default)s)")
    check.set_defaults(run=_check)
    synthetic = data.add_parser("synthetic", help="generate street scenes with the labels of all frames")
    synthetic.add_argument("out", help="folder to write")
    synthetic.add_argument("--clips", type=int, default=1, help="how many (default: %(default)s)")
    synthetic.add_argument("--frames", type=int, default=49, help="frames of each (default: %(default)s)")
    synthetic.add_argument("--size", default="448x256", metavar="WxH", help="pixels (default: %(default)s)")
    synthetic.add_argument("--seed", type=int, default=0, help="seed of the first (default: %(default)s)")
    synthetic.set_defaults(run=_synthetic)
    data.add_parser("layouts", help="list the layouts that are known").set_defaults(run=_layouts)


def _add_selftrain(verbs: Any) -> None:
    verb = verbs.add_parser(
        "selftrain",
        help="train on labelled and unlabelled images: ST, ST++, CISC-R, Three-Stage, UniMatch",
        description="Run all stages of a semi-supervised system. Run it again to resume: stages that are done stay.",
    )
    verb.add_argument("system", help="supervised, st, st++, cisc-r, three-stage or unimatch")
    verb.add_argument("root", help="data set, looked for below WRP_DATA as well")
    verb.add_argument("--labelled", required=True, metavar="LIST", help="file with the names of the labelled images")
    verb.add_argument("--unlabelled", required=True, metavar="LIST", help="file with the names of the others")
    verb.add_argument("--val", required=True, metavar="LIST", help="file with the names of the images to score on")
    verb.add_argument("--out", required=True, help="folder to write to")
    verb.add_argument(
        "--layout", default="folder", help="folder, voc, cityscapes, coco or camvid (default: %(default)s)"
    )
    verb.add_argument("--supervised", metavar="CKPT", help="network of the first stage, to be shared between systems")
    verb.add_argument("--steps", type=int, metavar="N", help="training steps of each stage (default 2000)")
    verb.add_argument("--crop-size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default 192 288)")
    verb.add_argument("--batch-size", type=int, metavar="N", help="labelled and unlabelled crops per step (default 4)")
    verb.add_argument("--architecture", help="of segmentation-models-pytorch (default FPN)")
    verb.add_argument("--encoder", help="of segmentation-models-pytorch or timm (default tu-regnetx_002)")
    verb.add_argument("--weights", help="encoder weights, such as imagenet (default: from scratch)")
    verb.add_argument("--scale", type=float, help="working resolution (default 1)")
    verb.add_argument("--lr", type=float, help="learning rate at the start (default 0.005)")
    verb.add_argument("--seed", type=int, default=0, help="seed of everything that is random (default: %(default)s)")
    verb.set_defaults(run=_selftrain)


def _add_rectify(verbs: Any) -> None:
    verb = verbs.add_parser(
        "rectify",
        help="weigh a run's labels by their consistency with the anchors (CISC-R)",
        description="Write DIR/rectified: how far each pixel's label agrees with the features of the clip's own "
        "anchors, for a student to learn from; and DIR/drift.json: how that falls with the distance.",
    )
    verb.add_argument("out", metavar="DIR", help="folder of a run of autolabel")
    verb.add_argument("--teacher", metavar="CKPT", help="network whose features are compared (default: the run's)")
    verb.set_defaults(run=_rectify)


def _rectify(options: argparse.Namespace) -> None:
    from wrp.pipeline.autolabel import open_run
    from wrp.pipeline.rectify import rectify

    out = Path(options.out)
    curve = rectify(open_run(out), out, options.teacher or str(out / "teacher.ckpt"))
    for distance, value in curve.items():
        print(f"{distance}\t{value:.4f}")


def _selftrain(options: argparse.Namespace) -> None:
    from wrp.pipeline.selftrain import SelfTraining, selftrain

    given = {key: value for key, value in vars(options).items() if key != "run" and value is not None}
    if "crop_size" in given:
        given["crop_size"] = tuple(given["crop_size"])
    if "architecture" in given:
        given["options"] = {}
    metrics = selftrain(SelfTraining(**given))
    print(f"mIoU {100 * metrics['scores']['miou']:.2f}")
    print(f"network: {Path(options.out) / metrics['network']}")


def _check(options: argparse.Namespace) -> None:
    from wrp.data.datasets import open_index
    from wrp.pipeline.check import check_data, describe

    found = check_data(open_index(options.root, options.layout, options.split), options.threads)
    print(describe(found))
    if found.broken:
        raise WrpError(f"{options.root} cannot be used as it is: {len(found.broken)} problems, listed above")


def _synthetic(options: argparse.Namespace) -> None:
    from wrp.pipeline.check import make_synthetic, synthetic_size

    make_synthetic(Path(options.out), options.clips, options.frames, synthetic_size(options.size), options.seed)
    print(f"clips: {Path(options.out) / 'frames'}")


def _layouts(options: argparse.Namespace) -> None:
    from wrp.data.datasets import LAYOUTS, summary

    for name, layout in LAYOUTS.items():
        print(f"{name}: {summary(layout)}")


def _autolabel(options: argparse.Namespace) -> None:
    from wrp.pipeline.autolabel import autolabel

    metrics = autolabel(_settings(options))
    if metrics is None:
        print(f"labels so far: {Path(options.out) / 'labels'}")
    else:
        _print(metrics, Path(options.out))


def _settings(options: argparse.Namespace) -> Settings:
    from wrp.pipeline.settings import Settings, split_names

    given = {key: value for key, value in vars(options).items() if key != "run" and value is not None}
    for key in ("methods", "clips"):
        if key in given:
            given[key] = split_names(given[key])
    return Settings(**given)


def _demo(options: argparse.Namespace) -> None:
    from wrp.pipeline.autolabel import demo

    _print(demo(Path(options.out), options.seed), Path(options.out))


def _print(metrics: dict[str, Any], out: Path) -> None:
    from wrp.pipeline.report import overall_table

    if any(scores["frames"] for scores in metrics["overall"].values()):
        print(overall_table(metrics))
    if "student" in metrics:
        print(f"student by itself: mIoU {metrics['student']['miou']:.1f}")
    print(f"labels: {out / 'labels'}")
    print(f"report: {out / 'report.md'}")
