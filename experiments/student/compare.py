"""Measure what propagated labels are worth to a student: the same network and steps, with and without them.

On CamVid, the student learns from the clip's keyframes and its propagated labels, and is scored on the training frames
of the same drive, which it has not seen. On generated clips with one label in 30 frames, whole clips are kept for the
score. Results are appended to a file as they come; what the file already holds is not made again.

    python experiments/student/compare.py camvid --propagated runs/camvid-25 --every 25
    python experiments/student/compare.py generated --every 30
    python experiments/student/compare.py --table
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from wrp import LabelWriter, PropagationData, PropagationModule, SegmentationData
from wrp.data.index import ClipIndex, select_clips
from wrp.data.items import FrameItems
from wrp.data.layouts.registry import open_index
from wrp.data.propagated import PropagatedLabels
from wrp.data.synthetic.folder import generate_folder
from wrp.io.manifest import join_manifest
from wrp.io.tables import markdown_table
from wrp.options import NetworkArgs, OptimizerArgs, SamplingArgs, SelectArgs
from wrp.runs.config import SLIM_FPN
from wrp.runs.processes import Processes
from wrp.runs.rectify import rectify
from wrp.runs.reliability import rank
from wrp.runs.students import WAYS, Way
from wrp.runs.trainer import quiet_lightning
from wrp.runs.training import fit, thirds_of
from wrp.segmentation.losses import SegmentationLoss
from wrp.structures import Frame

sys.path.append(str(Path(__file__).parents[1]))
from results import Results, mean_and_spread

RESULTS = Results(Path(__file__).with_name("results.jsonl"))
GENERATED = (24, 31)  # clips, and frames of each: with one label in 30, the first and the last frame are labelled
HELD_OUT = 6

# How a student learns: which propagated labels it uses, and how they are weighted.
STUDENTS: dict[str, Way] = {
    "keyframes alone": Way(),
    "all pixels alike": Way({"weighted": False}),
    "by confidence": WAYS["plain"],
    "confidence above 0.7": Way({"weighted": False, "min_confidence": 0.7}),
    "relaxation": Way({"weighted": False}),
    "CISC-R weights": WAYS["cisc-r"],
    "Three-Stage firewall": WAYS["three-stage"],
    "ST++ scheduling": WAYS["st++"],
}


def prepare(options: argparse.Namespace) -> tuple[ClipIndex, list[tuple[str, int, Frame]], str]:
    """Find the clips to learn from, the frames to score on, and the folder of propagated labels."""
    if options.data == "camvid":
        index = select_clips(open_index("camvid"), SelectArgs(label_every=options.every))
        drive = index.clips[0].name.split("_")[0]
        return index, [("", i, f) for i, f in enumerate(index.images) if f.stem.startswith(drive)], options.propagated
    clips, frames = GENERATED
    root = generate_folder(Path(options.runs) / "clips", seed=100, num_frames=frames, clips=clips)
    every = open_index(root)
    names = [clip.name for clip in every.clips]
    scored = [(c.name, i, f) for c in every.clips if c.name in names[:HELD_OUT] for i, f in enumerate(c.frames)]
    index = select_clips(every, SelectArgs(names[HELD_OUT:], options.every))
    run = Path(options.runs) / "motion"
    if not (run / "manifest.jsonl").is_file():
        module = PropagationModule(index.label_map.num_classes, ["motion"])
        data = PropagationData.over(index, done=str(run))
        with quiet_lightning():
            trainer = Processes().trainer(LabelWriter(str(run)))
            trainer.predict(module, data, return_predictions=False)
        join_manifest(run)
    return index, scored, str(run)


def run(student: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one student and score it."""
    index, scored, propagated = prepare(options)
    pl.seed_everything(seed, verbose=False)
    way = STUDENTS[student]
    # The network of the same seed without propagated labels gives CISC-R's features and ST++'s predictions.
    alone = Path(options.runs) / f"{options.data}-{options.every}-{options.steps}-{seed}.ckpt"
    if student in ("CISC-R weights", "ST++ scheduling") and not alone.is_file():
        run("keyframes alone", seed, options)
    if student == "CISC-R weights":
        rectify(index, Path(propagated), str(alone))
    if student == "ST++ scheduling":
        rank(index, Path(propagated), [*thirds_of(alone), alone])
    losses = {"relaxation" if student == "relaxation" else "cross_entropy": 1.0, "dice": 1.0}
    crop = (256, 448) if options.data == "camvid" else (192, 320)
    data = SegmentationData.over(
        index,
        sampling=SamplingArgs(crop, 8, 8 * options.steps // way.epochs, seed=seed),
        propagated=PropagatedLabels(propagated, 0.75, **way.labels) if student != "keyframes alone" else None,
        further_images=False,
    )
    module = way.kind(
        num_classes=index.label_map.num_classes,
        network=NetworkArgs("FPN", "tu-regnetx_002", options=dict(SLIM_FPN), scale=0.5),
        optimizer=OptimizerArgs(lr=5e-3),
        loss=SegmentationLoss(losses),
    )
    started = time.perf_counter()
    path = alone if student == "keyframes alone" else alone.with_name("student.ckpt")
    fit(module, data, options.steps, path, thirds=student == "keyframes alone")
    seconds = time.perf_counter() - started
    with quiet_lightning():
        frames = DataLoader(FrameItems(scored, index.label_map), batch_size=None)
        [result] = Processes().trainer().test(module, frames, verbose=False)
    kept = {key: round(result[f"test/{key}"], 2) for key in ("miou", "ece")}
    return {"seconds": round(seconds), **kept}


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that identify a result."""
    return {"data": options.data, "every": options.every, "steps": options.steps}


def table() -> str:
    """Format mean and standard deviation over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for result in RESULTS:
        groups[result["data"], result["every"], result["steps"], result["student"]].append(result)
    rows = []
    for (data, every, steps, student), found in groups.items():
        alone = groups.get((data, every, steps, "keyframes alone"), [])
        pairs = [r["miou"] - a["miou"] for r in found for a in alone if a["seed"] == r["seed"]]
        scores = [r["miou"] for r in found]
        gain = mean_and_spread(pairs, "+") if pairs and student != "keyframes alone" else ""
        ece = statistics.mean(r["ece"] for r in found)
        cells = [mean_and_spread(scores), gain, f"{ece:.1f}", str(len(found))]
        rows.append([student, data, str(every), str(steps), *cells])
    return markdown_table(["", "data", "K", "steps", "mIoU", "gain", "ECE, %", "seeds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=["camvid", "generated"])
    parser.add_argument("--propagated", help="folder of a run of autolabel on CamVid")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS), metavar="STUDENT")
    parser.add_argument("--runs", default=str(Path(tempfile.gettempdir()) / "wrp-student"), help="working folder")
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    options = parser.parse_args()
    if not options.table:
        if options.data is None or (options.data == "camvid" and options.propagated is None):
            parser.error("give camvid with --propagated, or generated")
        for seed in options.seeds:
            for student in options.students:
                key = {"student": student, "seed": seed, **setting(options)}
                RESULTS.once(key, partial(run, student, seed, options))
    print(table())


if __name__ == "__main__":
    main()
