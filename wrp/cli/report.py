"""`wrp report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wrp.errors import WrpError


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "report",
        help="write report.html and report.md of a run again, and videos",
        description="Write DIR/report.html and DIR/report.md from the files of a finished run of autolabel.",
    )
    verb.add_argument("out", metavar="DIR", help="folder of a run of autolabel")
    verb.add_argument(
        "--video",
        action="store_true",
        help="also write DIR/report/<clip>.mp4: each frame beside its overlay with labels",
    )
    verb.add_argument("--fps", type=float, help="frames per second of the videos (default 15)")
    verb.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from wrp.io.locking import added_to

    if options.fps is not None and not options.video:
        raise WrpError(f"--fps {options.fps:g} needs --video")
    with added_to(Path(options.out)) as out:
        # Only here: a folder that is no run is told before anything is loaded.
        from wrp.data.run import open_run
        from wrp.report.metrics import read_metrics
        from wrp.report.overlay import Encoding, write_video
        from wrp.runs.autolabel import write_reports

        encoding = Encoding.choose(15 if options.fps is None else options.fps) if options.video else None
        index = open_run(out, by_network=True)
        metrics = read_metrics(index, out)
        write_reports(index, metrics, out)
        print(f"report: {out / 'report.html'}, its tables as text: {out / 'report.md'}")
        if encoding is not None:
            for clip in index.clips:
                print(f"video: {write_video(index, clip, out, encoding)}")
