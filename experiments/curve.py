"""Print the validation curves of runs of `wrp fit` that logged to a CSVLogger, one column per run.

wrp fit --recipe camvid/teacher --trainer.logger CSVLogger --trainer.logger.save_dir runs \
        --trainer.logger.name plain
python experiments/curve.py runs/plain
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from wrp.io.tables import markdown_table


def curve(run: Path, key: str) -> dict[int, float]:
    """Read a metric of the last version of a run: percent by step."""
    path = max(run.rglob("metrics.csv"), key=lambda found: found.stat().st_mtime, default=None)
    if path is None:
        raise SystemExit(f"{run} has no metrics.csv: log with --trainer.logger CSVLogger")
    with path.open(encoding="utf-8") as file:
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row.get(key)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of CSVLogger")
    parser.add_argument("--metric", default="val/miou")
    options = parser.parse_args()
    curves = [curve(run, options.metric) for run in options.runs]
    steps = sorted({step for found in curves for step in found})
    rows = [[str(step + 1), *(f"{found[step]:.2f}" if step in found else "–" for found in curves)] for step in steps]
    print(markdown_table(["steps", *(run.name for run in options.runs)], rows))


if __name__ == "__main__":
    main()
