"""`wrp autolabel` and `wrp demo`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Exit code of a run that is finished except for clips that were skipped.
EXIT_PARTIAL = 3


def add(verbs: Any) -> None:
    """Add the name of the command to the parser of `wrp`; :func:`run` parses its arguments."""
    verbs.add_parser("autolabel", help="label every frame of a data set's clips", add_help=False)


def run(args: Sequence[str]) -> int:
    """Run `wrp autolabel` with these arguments and return its exit code."""
    from wrp.io.writing import follow_links
    from wrp.runs.arguments import parse_arguments
    from wrp.runs.early import open_early

    settings, dry = parse_arguments(args)
    # The agent of a W&B sweep runs no shell, and each of its trials needs a folder: runs/$WANDB_RUN_ID.
    settings = replace(settings, out=str(follow_links(Path(os.path.expandvars(settings.out)))))

    opened = open_early(settings)

    from wrp.io.progress import rank
    from wrp.runs.autolabel import autolabel, dry_run

    if dry:
        print(dry_run(settings, opened))
        return 0
    metrics = autolabel(settings, opened)
    if rank() == 0 and metrics is None:
        print(f"labels so far: {Path(settings.out) / 'labels'}")
    elif rank() == 0 and metrics is not None:
        _print(metrics, Path(settings.out))
    return EXIT_PARTIAL if metrics is not None and metrics.get("skipped") else 0


def add_demo(verbs: Any) -> None:
    """Add `wrp demo` to the parser of `wrp`."""
    verb = verbs.add_parser(
        "demo",
        help="autolabel a generated street scene",
        description="Generate a street scene with known labels, propagate every 12th, by motion first and then with "
        "networks, and score the other frames.",
    )
    verb.add_argument("--out", default="wrp-demo", help="folder for scene/, motion/ and run/ (default: %(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the scene and of the run (default: %(default)s)")
    verb.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    from wrp.io.outputs import RUN, SCENE, check_output
    from wrp.io.writing import follow_links
    from wrp.options import MAX_SEED, check_range

    check_range("--seed", options.seed, 0, MAX_SEED)
    out = follow_links(Path(options.out))
    for folder, kind in (("scene", SCENE), ("motion", RUN), ("run", RUN)):
        check_output(out / folder, kind)
    run = out / "run"

    from wrp.runs.autolabel import demo

    _print(demo(out, options.seed), run)
    print(f"a network from these labels: wrp autolabel --config {run / 'settings.json'} --out {run} --student")


def _print(metrics: dict[str, Any], out: Path) -> None:
    from wrp.io.tables import format_score
    from wrp.report.tables import format_estimate, overall_table

    if any(scores["frames"] for scores in metrics["overall"].values()):
        print(overall_table(metrics))
    result, estimate = metrics["settings"]["methods"][-1], metrics.get("estimate", {})
    for method in dict.fromkeys((result, "motion")):
        if result in estimate and method in estimate:
            found = estimate[method]
            count = f"{found['labels']} keyframe{'s' if found['labels'] > 1 else ''}"
            print(f"{method}: mIoU {format_estimate(found)}, estimated from {count} held out in turn")
    if "student" in metrics:
        print(f"student network alone: mIoU {format_score(metrics['student']['miou'])}")
    for clip, problem in metrics.get("skipped", {}).items():
        print(f"skipped {clip}: {problem}")
    print(f"labels: {out / 'labels'}")
    print(f"report: {out / 'report.html'}, its tables as text: {out / 'report.md'}")
    if student := metrics["settings"]["student"]:
        file = "student.ckpt" if student == "plain" else f"student-{student}.ckpt"
        print(f"student: {out / file}; it labels new images: wrp predict-images {out} FOLDER --out LABELS")
    print(f"next: wrp suggest {out} shows which frames to label next; wrp export {out} takes labels to other programs")
