"""Print one table with the scores of several runs of `wrp autolabel` or `wrp demo`.

python experiments/summarize.py DIR ...
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from wrp.io.tables import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json")
    runs = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in parser.parse_args().runs]
    rows = []
    for method in dict.fromkeys(method for run in runs for method in run["overall"]):
        if any(method not in run["overall"] for run in runs):
            continue  # a mean over some of the runs would not be comparable
        scores = [run["overall"][method]["miou"] for run in runs]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        rows.append([method, *(f"{score:.2f}" for score in scores), f"{statistics.mean(scores):.2f}", f"{spread:.2f}"])
    names = [_name(run["settings"]) for run in runs]
    print(markdown_table(["mIoU", *names, "mean", "stdev"], rows))
    for run in runs:
        if any(scores.get("j") is not None for scores in run["overall"].values()):
            print()
            print(_masks(run))
    steps = dict.fromkeys(step for run in runs for step in run["seconds"])
    seconds = [[step, *(f"{run['seconds'].get(step, 0):.0f}" for run in runs)] for step in steps]
    print()
    print(markdown_table(["seconds", *names], seconds))
    print()
    print("; ".join(f"{package} {number}" for package, number in runs[0]["settings"]["versions"].items()))


def _name(settings: dict[str, Any]) -> str:
    clips = settings["clips"]
    which = str(clips[0]) if len(clips) == 1 else f"{len(clips)} clips"
    return f"{which} every {settings['select']['label_every']} seed {settings['run']['seed']}"


def _masks(run: dict[str, Any]) -> str:
    """Format J / F of each clip and their mean, the scores of DAVIS for masks."""
    rows = []
    for method, overall in run["overall"].items():
        if overall.get("j") is not None:
            found = [*(clip[method] for clip in run["clips"].values()), overall]
            rows.append([method, *(f"{scores['j']:.1f} / {scores['f']:.1f}" for scores in found)])
    return markdown_table(["J / F", *run["clips"], "mean"], rows)


if __name__ == "__main__":
    main()
