"""`wrp autolabel` and `wrp demo`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

# Done, but for the clips that were skipped.
EXIT_PARTIAL = 3


def add(verbs: Any) -> None:
    """Add the command to the parser."""
    verb = verbs.add_parser(
        "autolabel",
        help="label every frame of a data set's clips",
        description="Label every frame: train a teacher and a refiner on the labelled frames, propagate their labels, "
        "write labels, confidence, a manifest and a report. Run it again to resume; steps that are done are skipped.",
    )
    verb.add_argument(
        "root",
        nargs="?",
        help="folder with frames/, labels/ and classes.yaml, or a data set (`wrp data layouts`), looked for below "
        "WRP_DATA as well",
    )
    verb.add_argument("--out", help="folder to write to")
    verb.add_argument(
        "--config",
        metavar="FILE",
        help="settings by name, in YAML or JSON, also those without a flag, such as settings.json of another run; "
        "flags win",
    )
    verb.add_argument("--dry-run", action="store_true", help="print what would be done and how long it takes, and stop")
    verb.add_argument("--layout", help="auto or the name of a layout, see `wrp data layouts` (default: auto)")
    verb.add_argument("--split", help="split of the data set (default: the layout's)")
    verb.add_argument("--clips", help="names of clips, comma-separated (default: all)")
    verb.add_argument("--label-every", type=int, metavar="K", help="hide all labels but every K-th; score the others")
    verb.add_argument("--label-offset", type=int, metavar="O", help="number of the first label kept (default 0)")
    verb.add_argument("--anchors", metavar="FILE", help="keep the labels it lists, lines CLIP/FRAME; score the others")
    verb.add_argument(
        "--methods",
        help="comma-separated; the last one is the result; also copy, vote and vote-once; any but "
        "semantic as METHOD:previous and METHOD:nearest (default: "
        "motion,semantic,inpaint,refine)",
    )
    verb.add_argument("--teacher", metavar="CKPT", help="checkpoint of a SegmentationModule instead of training one")
    verb.add_argument("--refiner", metavar="CKPT", help="checkpoint of a RefinementModule instead of training one")
    verb.add_argument(
        "--weights",
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
        "--student",
        nargs="?",
        const="plain",
        choices=["plain", "cisc-r", "three-stage", "st++"],
        help="train a network on all frames in the end; a propagated pixel counts by its confidence (plain), by its "
        "consistency with the anchors (cisc-r), for a second head alone (three-stage), or by its confidence, the more "
        "reliable frames first (st++); default plain",
    )
    verb.add_argument(
        "--flow-cache",
        metavar="DIR",
        help="keep optical flow there, to be shared between runs (default: in --out, deleted in the end)",
    )
    verb.add_argument("--min-confidence", type=float, metavar="P", help="write 255 where a label is less confident")
    verb.add_argument(
        "--shard",
        metavar="I/N",
        help="label one of N shares of the intervals, for N jobs with one --out; networks "
        "and calibration have to be there: run once with --limit 0 before",
    )
    verb.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        help="what a clip with a broken file does: stop the run before it begins (default), or be left out, which "
        "makes the exit code 3",
    )
    verb.add_argument("--limit", type=int, metavar="N", help="label at most N intervals this time; 0: train only")
    verb.add_argument("--seed", type=int, help="seed of everything that is random (default: 0)")
    verb.add_argument("--workers", type=int, help="loader processes (default: 0)")
    verb.set_defaults(run=_autolabel)


def add_demo(verbs: Any) -> None:
    """Add the command to the parser."""
    verb = verbs.add_parser(
        "demo",
        help="autolabel a generated street scene",
        description="Generate a street scene with known truth, propagate every 12th label, and score the other frames.",
    )
    verb.add_argument("--out", default="wrp-demo", help="folder for scene/ and run/ (default: %(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the scene and the trainings (default: %(default)s)")
    verb.set_defaults(run=_demo)


def _autolabel(options: argparse.Namespace) -> int:
    from wrp.pipeline.autolabel import autolabel, dry_run
    from wrp.pipeline.settings import read_settings
    from wrp.writing import follow_links

    given = {key: value for key, value in vars(options).items() if key not in ("run", "config", "dry_run")}
    settings = read_settings({key: value for key, value in given.items() if value is not None}, options.config)
    settings = replace(settings, out=str(follow_links(Path(settings.out))))
    if options.dry_run:
        print(dry_run(settings))
    elif (metrics := autolabel(settings)) is None:
        print(f"labels so far: {Path(settings.out) / 'labels'}")
    else:
        _print(metrics, Path(settings.out))
        return EXIT_PARTIAL if metrics.get("skipped") else 0
    return 0


def _demo(options: argparse.Namespace) -> None:
    from wrp.pipeline.autolabel import demo
    from wrp.writing import follow_links

    out = follow_links(Path(options.out))
    _print(demo(out, options.seed), out / "run")


def _print(metrics: dict[str, Any], out: Path) -> None:
    from wrp.pipeline.report import number, overall_table

    if any(scores["frames"] for scores in metrics["overall"].values()):
        print(overall_table(metrics))
    if "student" in metrics:
        print(f"student by itself: mIoU {number(metrics['student']['miou'])}")
    for clip, problem in metrics.get("skipped", {}).items():
        print(f"skipped {clip}: {problem}")
    print(f"labels: {out / 'labels'}")
    print(f"report: {out / 'report.html'}, its tables as text: {out / 'report.md'}")
