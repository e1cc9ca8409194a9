"""The semi-supervised systems on CamVid's training frames, one in eight labelled, a whole drive held out.

Labelled and unlabelled frames come from the drives 0001TP and 0016E5, those of 0006R0 are for the score. All systems
have the same network and steps per training; the first stage is shared where it is the same. Results are appended to a
file as they come; what is in it is not made again, and a run that was stopped goes on by stages.

    python experiments/selftraining/compare.py camvid --runs runs/selftraining
    python experiments/selftraining/compare.py --table
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from wrp.data.datasets import find_folder
from wrp.pipeline.report import markdown_table
from wrp.pipeline.selftrain import SYSTEM_NAMES, SelfTraining, selftrain

RESULTS = Path(__file__).with_name("results.jsonl")
HELD_OUT = "0006R0"
LABELLED_EVERY = 8


def write_lists(root: Path, out: Path) -> dict[str, str]:
    """The three lists, made from the names of the frames."""
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(path.stem for path in (root / "train").glob("*.png"))
    drives: dict[str, list[str]] = defaultdict(list)
    for name in names:
        drives[name.split("_")[0]].append(f"train/{name}")
    labelled = [name for drive, frames in drives.items() if drive != HELD_OUT for name in frames[::LABELLED_EVERY]]
    unlabelled = [n for drive, frames in drives.items() if drive != HELD_OUT for n in frames if n not in labelled]
    paths = {}
    for which, listed in (("labelled", labelled), ("unlabelled", unlabelled), ("val", drives[HELD_OUT])):
        paths[which] = str(out / f"{which}.txt")
        Path(paths[which]).write_text("\n".join(listed) + "\n", encoding="utf-8")
    return paths


def run(system: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """All stages of one system."""
    runs = Path(options.runs)
    lists = write_lists(find_folder("camvid"), runs / "lists")
    started = time.perf_counter()
    # ST++ needs its first network at thirds of its training, so its first stage serves the others.
    shared = runs / f"st++-{seed}" / "supervised.ckpt"
    shares = system in ("supervised", "st", "three-stage") and shared.is_file()
    metrics = selftrain(
        SelfTraining(
            system,
            "camvid",
            out=str(runs / f"{system}-{seed}"),
            layout="camvid",
            supervised=str(shared) if shares else None,
            steps=options.steps,
            crop_size=(256, 384),
            scale=0.5,
            seed=seed,
            **lists,
        )
    )
    seconds = round(time.perf_counter() - started)
    miou = round(100 * metrics["scores"]["miou"], 2)
    return {"system": system, "seed": seed, "steps": options.steps, "miou": miou, "seconds": seconds}


def results() -> list[dict[str, Any]]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return [json.loads(line) for line in lines]


def table() -> str:
    """Mean and spread over the seeds, and the gain over labelled images alone."""
    by_system: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for result in results():
        by_system[result["steps"], result["system"]][result["seed"]] = result["miou"]
    rows = []
    for (steps, system), scores in by_system.items():
        alone = by_system.get((steps, "supervised"), {})
        gains = [score - alone[seed] for seed, score in scores.items() if seed in alone]
        gain = f"{statistics.mean(gains):+.2f} ± {spread(gains):.2f}" if gains and system != "supervised" else ""
        values = list(scores.values())
        rows.append(
            [system, str(steps), f"{statistics.mean(values):.2f} ± {spread(values):.2f}", gain, str(len(values))]
        )
    return markdown_table(["system", "steps", "mIoU", "gain", "seeds"], rows)


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=["camvid"])
    parser.add_argument("--runs", default="runs/selftraining", help="folder for networks and pseudo-labels")
    parser.add_argument("--systems", nargs="+", default=["st++", *(s for s in SYSTEM_NAMES if s != "st++")])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the results there are and stop")
    options = parser.parse_args()
    if not options.table:
        if options.data is None:
            parser.error("give camvid")
        for seed in options.seeds:
            for system in options.systems:
                key = {"system": system, "seed": seed, "steps": options.steps}
                if not any(key.items() <= result.items() for result in results()):
                    result = run(system, seed, options)
                    with RESULTS.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
    print(table())


if __name__ == "__main__":
    main()
