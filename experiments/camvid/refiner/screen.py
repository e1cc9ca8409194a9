"""Screen one choice of the refiner's training at a time, with one teacher for all rows.

Each row is trained on the labelled frames of a clip and scored on its hidden frames. Results are appended to a file as
they come; what is in it already is not made again, so the same command goes on where it stopped.

    python experiments/camvid/refiner/screen.py camvid --teacher runs/camvid-25/teacher.ckpt --steps 500
    python experiments/camvid/refiner/screen.py --table
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from wrp import PropagationModule, RefinementModule, VideoDataModule
from wrp.data.datasets import open_index
from wrp.data.items import IntervalItems
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.pipeline.report import markdown_table
from wrp.pipeline.training import plain_trainer, quiet_lightning

RESULTS = Path(__file__).with_name("results.jsonl")
METHODS = ["motion", "semantic", "inpaint", "refine"]

# What differs from the defaults of RefinementModule.
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no colour jitter": {"jitter": 0.0},
    "colour jitter 0.6": {"jitter": 0.6},
    "plain cross-entropy": {"balance": 0.0},
    "borders count three times": {"boundary": 2.0},
    "cross-entropy and Dice": {"balance": 0.0, "losses": {"cross_entropy": 1.0, "dice": 1.0}},
    "cycles alone": {"pair_share": 0.0},
    "anchor-to-anchor pairs alone": {"pair_share": 1.0},
    "displaced by 1 px": {"displacement": 1.0},
    "displaced by 3 px": {"displacement": 3.0},
    "corrupted, one in four": {"corruption": 0.25},
    "learning rate 0.002": {"lr": 0.002},
    "twice the width": {"channels": [32, 64, 96, 128, 192]},
    "no teacher": {"teacher": None},
    "FPN on the teacher's encoder": {"decoder": "FPN"},
    "FPN on the teacher's encoder, which learns": {"decoder": "FPN", "freeze_encoder": False},
    "Unet on the teacher's encoder": {"decoder": "Unet"},
    "cycles back along the flow they came": {"crossed": False},
    "back along DIS medium": {"flow_back": DIS("medium")},
    "back along DIS medium, not crossed": {"flow_back": DIS("medium"), "crossed": False},
    "cross-entropy and RMI": {"losses": {"cross_entropy": 1.0, "rmi": 0.1}},
}


def run(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one row."""
    pl.seed_everything(options.seed + 1, verbose=False)
    num_classes = open_index(options.root).label_map.num_classes
    data = VideoDataModule(
        num_classes,
        options.root,
        label_every=options.every,
        label_offset=options.offset,
        serve="windows",
        epoch_length=options.steps,
        seed=options.seed,
    )
    flow = FlowCache(DIS(), options.flow_cache)
    module = RefinementModule(num_classes, **{"teacher": options.teacher, "flow": flow, **ROWS[row]})
    started = time.perf_counter()
    with quiet_lightning():
        trainer = pl.Trainer(max_steps=options.steps, limit_val_batches=0, num_sanity_val_steps=0, **plain_trainer())
        trainer.fit(module, data)
    seconds = time.perf_counter() - started
    scorer = PropagationModule(num_classes, METHODS, options.teacher, module.eval(), flow)
    items = IntervalItems(data.index.clips, data.label_map, with_hidden=True)
    with torch.inference_mode():
        for number in range(len(items)):
            scorer.test_step(items[number], number)
    scores = {method: round(score["miou"], 2) for method, score in scorer.test_score.compute().items()}
    return {"row": row, **setting(options), "seconds": round(seconds), **scores}


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What a result belongs to, besides its row."""
    return {key: getattr(options, key) for key in ("root", "every", "offset", "steps", "seed")}


def results() -> list[dict[str, Any]]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return [json.loads(line) for line in lines]


def table() -> str:
    """All results, the best of each setting first."""
    rows = sorted(results(), key=lambda r: (r["root"], r["every"], r["offset"], r["steps"], r["seed"], -r["refine"]))
    header = ["", "K", "offset", "steps", "seed", "motion", "inpaint", "refine", "refine - motion", "seconds"]
    cells = [
        [
            r["row"],
            *(str(r[key]) for key in ("every", "offset", "steps", "seed")),
            *(f"{r[key]:.2f}" for key in ("motion", "inpaint", "refine")),
            f"{r['refine'] - r['motion']:+.2f}",
            str(r["seconds"]),
        ]
        for r in rows
    ]
    return markdown_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("--teacher", help="checkpoint of the teacher of all rows")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow-cache", help="folder for optical flow, shared by all rows")
    parser.add_argument("--table", action="store_true", help="print the results there are and stop")
    options = parser.parse_args()
    if not options.table:
        if options.root is None or options.teacher is None:
            parser.error("a data set and --teacher are needed")
        for row in options.rows:
            key = {"row": row, **setting(options)}
            if any(key.items() <= result.items() for result in results()):
                continue
            result = run(row, options)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
    print(table())


if __name__ == "__main__":
    main()
