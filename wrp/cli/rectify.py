"""`wrp rectify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "rectify",
        help="weight a run's labels by their consistency with the keyframes (CISC-R)",
        description="Write DIR/rectified, which tells how well each pixel's label agrees with the features of "
        "the clip's own keyframes, as weights for the training of a student; and DIR/drift.json, which tells how the "
        "disagreement grows with the distance to the keyframe.",
    )
    verb.add_argument("out", metavar="DIR", help="folder of a run of autolabel")
    verb.add_argument("--teacher", metavar="CKPT", help="network whose features are compared (default: the run's)")
    verb.set_defaults(run=_rectify)


def _rectify(options: argparse.Namespace) -> None:
    from wrp.io.locking import added_to

    with added_to(Path(options.out)) as out:
        # Only here: a folder that is no run is told before anything is loaded.
        from wrp.data.run import open_run
        from wrp.runs.rectify import rectify

        curve = rectify(open_run(out), out, options.teacher or str(out / "teacher.ckpt"))
    for distance, value in curve.items():
        print(f"{distance}\t{value:.4f}")
