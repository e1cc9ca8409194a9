"""Compare the mIoU that a run is estimated to have, from its keyframes alone, with its mIoU on held-out frames.

The last column is the ratio of the error on all frames without a label to that at the keyframes held out in turn; the
estimate takes it from the distances of the frames alone (wrp.propagation.estimate).

    python experiments/propagation/estimate.py camvid:10 domains/vocalfolds:4 domains/em:4 domains/chair:10 davis2016:10
    python experiments/propagation/estimate.py --runs runs/camvid-10 runs/davis-10
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from wrp.io.opening import read_json
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs
from wrp.report.tables import format_estimate
from wrp.runs.autolabel import autolabel
from wrp.runs.config import RunArgs, Settings


def rows_of(name: str, metrics: dict[str, Any]) -> list[list[str]]:
    """Return a row for each method of a run."""
    rows = []
    for method, found in metrics.get("estimate", {}).items():
        true = metrics["overall"][method]["miou"]
        ratio = (100 - true) / (100 - found["held_out_miou"])
        rows.append([name, method, str(found["labels"]), format_estimate(found), f"{true:.1f}"])
        rows[-1] += [f"{found['miou'] - true:+.1f}", f"{ratio:.2f}"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="data set and spacing of its keyframes, ROOT:K, labelled by motion")
    parser.add_argument("--runs", nargs="*", default=[], type=Path, help="finished runs with held-out labels")
    parser.add_argument("--flow", default="dis-fast", help="a preset of wrp.flow")
    options = parser.parse_args()
    rows = [row for run in options.runs for row in rows_of(run.name, read_json(run / "metrics.json", ""))]
    for one in options.data:
        root, every = one.split(":")
        with tempfile.TemporaryDirectory() as folder:
            select, run = SelectArgs(label_every=int(every)), RunArgs(flow=options.flow)
            settings = Settings(root, f"{folder}/run", select=select, methods="copy,motion", run=run)
            metrics = autolabel(settings)
        assert metrics is not None
        rows += rows_of(f"{root}, K={every}", metrics)
        print(rows[-2:], flush=True)
    print(markdown_table(["run", "method", "keyframes", "estimated", "mIoU", "difference", "ratio of errors"], rows))


if __name__ == "__main__":
    main()
