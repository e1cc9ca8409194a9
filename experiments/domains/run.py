"""Label kinds of video that differ as much as can be had, by all methods, at three spacings: one table.

A cell is a kind of video, a spacing of its keyframes and a seed. Cells are appended to results.jsonl as they come, and
what the file holds is not made again, so that the same command goes on where it stopped. Teacher and refiner are
trained at the widest spacing and serve the others.

    python experiments/domains/run.py                              all cells: days
    python experiments/domains/run.py camvid davis2016 --seeds 0   some of them
    python experiments/domains/run.py --quick                      without networks, a fast flow, the widest spacings
    python experiments/domains/run.py --table                      the tables of what is there

Columns of the first table: mean IoU (Boundary IoU: Cheng et al., CVPR 2021); VC8 and VC16, the consistency of VSPW,
over all frames, keyframes included; J of DAVIS for masks of one object; of the last method the calibration error (ECE)
and the area under the ROC curve (AUROC) of its confidence, right against wrong pixels. In percent. "best of both" is
the per-pixel best of motion and teacher; "closed" is the ratio of the gap between motion and it that refine closes.

The second one compares what a run says of itself with the hidden truth: estimated and true mIoU, of motion and of the
last method, and how much of the last method's labels is accepted at 0.95, 0.98 and 0.99 (`wrp suggest --accept`) and
how much of that is right, of frames and of pixels, with a star where the run's own keyframes guarantee it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.classification import BinaryAUROC

from wrp.data.index import ClipIndex, select_clips
from wrp.data.layouts.registry import open_index
from wrp.data.synthetic.folder import generate_folder
from wrp.io.images import read_confidence, read_frame_label, read_label
from wrp.io.tables import markdown_table
from wrp.metrics import BoundaryIoU, SegmentationScore, VideoConsistency
from wrp.metrics.calibration import LEVELS
from wrp.options import SelectArgs
from wrp.report.scoring import prediction_path
from wrp.runs.autolabel import autolabel
from wrp.runs.config import RunArgs, Settings, TeacherArgs
from wrp.structures import IGNORE_INDEX, Clip

sys.path.append(str(Path(__file__).parents[1]))
from results import Results, mean_and_spread
from suggest.accept import ASKED, accepted, shown

sys.path.append(str(Path(__file__).parent))
from generate import SCENES, write_scene

RESULTS = Results(Path(__file__).with_name("results.jsonl"))
SPACINGS: dict[str, tuple[int, ...]] = {
    "camvid": (50, 25, 10),
    "davis2016": (20, 10, 5),
    "domains/chair": (20, 10, 5),
    "domains/vocalfolds": (12, 6, 4),
    "domains/em": (10, 6, 4),
    "streets": (24, 12, 6),
    "arm": (40, 20, 10),
    "doom": (20, 10, 5),
}
METHODS = ("motion", "vote", "semantic", "inpaint", "refine")
BOTH = "best of both"
SHOWN = ("motion", "vote", "semantic", "inpaint", "refine", BOTH)


def root_of(domain: str, folder: Path) -> str:
    """Return the data set of a domain, generated first if it is none of the given ones."""
    if domain == "streets":
        return str(generate_folder(folder / "streets", seed=100, num_frames=97, clips=3))
    if domain in SCENES:
        return str(write_scene(domain, folder / domain))
    return domain


def run(domain: str, every: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Label a domain at one spacing, and score what was written."""
    root = root_of(domain, options.folder)
    place = options.folder / f"{domain.replace('/', '-')}-{seed}{'-quick' if options.quick else ''}"
    out, widest = place / str(every), place / str(SPACINGS[domain][0])
    settings = Settings(
        root,
        str(out),
        select=SelectArgs(label_every=every),
        methods=",".join(METHODS[:2] if options.quick else METHODS),
        train_teacher=TeacherArgs(weights=options.weights),
        run=RunArgs(flow="dis-fast" if options.quick else options.flow, seed=seed),
    )
    if out != widest and not options.quick:
        settings = replace(settings, teacher=str(widest / "teacher.ckpt"), refiner=str(widest / "refiner.ckpt"))
    metrics = autolabel(settings)
    assert metrics is not None
    index = select_clips(open_index(root), settings.select)
    methods = tuple(metrics["settings"]["methods"])
    frames = sum(len(clip.frames) for clip in index.clips)
    cell: dict[str, Any] = {"commit": _commit(), "frames": frames, "seconds": round(metrics["seconds"]["total"])}
    cell["per_frame"] = round(metrics["seconds"]["propagate"] / frames, 2)
    for method in methods:
        cell[method] = _scores(index, out, methods, method) | {
            key: metrics["overall"][method][key] for key in ("miou", "j") if key in metrics["overall"][method]
        }
        if foretold := metrics.get("estimate", {}).get(method):
            cell[method] |= {"estimated": foretold["miou"], "keyframes": foretold["held_out_miou"]}
    if "semantic" in methods:
        cell[BOTH] = {"miou": _best(index, out, methods)}
    cell[methods[-1]] |= {"ece": metrics["overall"][methods[-1]]["ece"], "auroc": _auroc(index, out)}
    cell["accepted"] = {str(asked): accepted(index, out, asked) for asked in ASKED}
    for name in () if options.keep else ("labels", "methods", "confidence", "provenance"):
        shutil.rmtree(out / name, ignore_errors=True)  # the networks are kept, for other spacings
    return cell


def _labels(clip: Clip, at: int, index: ClipIndex, out: Path, methods: tuple[str, ...], method: str) -> torch.Tensor:
    """Return what a method says of a frame; of a keyframe, its label."""
    frame = clip.frames[at]
    if at in clip.keyframes:
        return read_frame_label(frame, index.label_map)
    return read_label(prediction_path(out, methods, method, clip.name, frame.stem), index.label_map.written)


def _scores(index: ClipIndex, out: Path, methods: tuple[str, ...], method: str) -> dict[str, Any]:
    """Return Boundary IoU over the held-out frames and VC over whole clips."""
    boundary, steady = BoundaryIoU(index.label_map.num_classes), {n: VideoConsistency(n) for n in (8, 16)}
    for clip in index.clips:
        known = sorted({*clip.held_out, *clip.keyframes})
        made = torch.stack([_labels(clip, at, index, out, methods, method) for at in known])
        truth = torch.stack([read_frame_label(clip.frames[at], index.label_map) for at in known])
        for at, label, wanted in zip(known, made, truth, strict=True):
            if at in clip.held_out:
                boundary.update(label[None], wanted[None])
        for metric in steady.values():
            metric.update(made, truth)
    found = {"biou": boundary.compute()} | {
        f"vc{n}": metric.compute() for n, metric in steady.items() if metric.stretches
    }
    return {name: round(100 * value.item(), 2) for name, value in found.items()}


def _best(index: ClipIndex, out: Path, methods: tuple[str, ...]) -> float:
    """Return the mIoU of the labels of motion or, where that is wrong and the teacher is right, of the teacher."""
    score = SegmentationScore(index.label_map.num_classes)
    for clip in index.clips:
        for at in clip.held_out:
            truth = read_frame_label(clip.frames[at], index.label_map)
            moved, told = (_labels(clip, at, index, out, methods, method) for method in ("motion", "semantic"))
            score.update(torch.where(told == truth, told, moved)[None], truth[None])
    return round(100 * score.compute().item(), 2)


def _auroc(index: ClipIndex, out: Path) -> float:
    """Return the area under the ROC curve of the confidence of the labels that were written."""
    score = BinaryAUROC(thresholds=LEVELS)
    for clip in index.clips:
        for at in clip.held_out:
            frame = clip.frames[at]
            label = read_label(out / "labels" / clip.name / f"{frame.stem}.png", index.label_map.written)
            confidence = read_confidence(out / "confidence" / clip.name / f"{frame.stem}.png")
            truth = read_frame_label(frame, index.label_map)
            known = (truth != IGNORE_INDEX) & (label != IGNORE_INDEX)
            score.update(confidence[known], (label == truth)[known].long())
    return round(100 * score.compute().item(), 2)


def _commit() -> str:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def groups(quick: bool) -> list[tuple[list[str], str, list[dict[str, Any]]]]:
    """Return the cells that are there, seeds together: the first columns of their row, the last method, the cells."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell in sorted(RESULTS, key=lambda cell: (list(SPACINGS).index(cell["domain"]), -cell["every"], cell["seed"])):
        if cell["quick"] == quick:
            found[cell["domain"], cell["every"], cell["weights"], cell["flow"]].append(cell)
    return [
        (
            [f"{domain}, K={every}", weights, str(len(cells)), ", ".join(sorted({cell["commit"] for cell in cells}))],
            next(method for method in reversed(METHODS) if method in cells[0]),
            cells,
        )
        for (domain, every, weights, _), cells in found.items()
    ]


FIRST = ["data", "weights", "seeds", "commit"]


def quality_table(quick: bool) -> str:
    """Format scores and times: means over the seeds, and their deviation where there are several."""
    rows = []
    for row, last, cells in groups(quick):
        row += [_spread(cells, method, "miou") if method in cells[0] else "–" for method in SHOWN]
        closed = [
            100 * (cell["refine"]["miou"] - cell["motion"]["miou"]) / (cell[BOTH]["miou"] - cell["motion"]["miou"])
            for cell in cells
            if BOTH in cell
        ]
        row.append(f"{np.mean(closed):.0f}" if closed else "–")
        row += [
            f"{_spread(cells, 'motion', key)} → {_spread(cells, last, key)}" for key in ("biou", "vc8", "vc16", "j")
        ]
        row += [_spread(cells, last, key) for key in ("ece", "auroc")]
        rows.append([*row, f"{np.mean([cell['per_frame'] for cell in cells]):.2f}"])
    of_scores = ["closed, %", "Boundary IoU", "VC8", "VC16", "J", "ECE", "AUROC"]
    return markdown_table([*FIRST, *SHOWN, *of_scores, "seconds per frame"], rows)


def trust_table(quick: bool) -> str:
    """Format what the runs say of themselves beside the hidden truth; what is accepted is that of the first seed."""
    rows = []
    for row, last, cells in groups(quick):
        row += [_spread(cells, method, key) for method in ("motion", last) for key in ("estimated", "miou")]
        rows.append(row + [column for asked in ASKED for column in shown(cells[0]["accepted"][str(asked)])])
    header = [f"{method}, {what}" for method in ("motion", "last") for what in ("estimated", "true")]
    return markdown_table(
        [*FIRST, *header, *(f"{kind}, {asked}" for asked in ASKED for kind in ("frames", "pixels"))], rows
    )


def _spread(cells: list[dict[str, Any]], method: str, key: str) -> str:
    values = [cell[method][key] for cell in cells if cell[method].get(key) is not None]
    return mean_and_spread(values) if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", help=f"of {', '.join(SPACINGS)}; all by default")
    parser.add_argument("--every", type=int, nargs="+", help="only these spacings, and the widest one if it is needed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", default="auto", help="of the teacher's encoder, as in `wrp autolabel`")
    parser.add_argument("--flow", default="dis-best", help="a preset of wrp.flow")
    parser.add_argument("--quick", action="store_true", help="motion and vote along dis-fast at the widest spacing")
    parser.add_argument("--folder", type=Path, default=Path("runs/domains"), help="for generated clips and runs")
    parser.add_argument("--keep", action="store_true", help="keep the labels of the runs")
    parser.add_argument("--table", action="store_true", help="print the tables of the cells so far and stop")
    options = parser.parse_args()
    if unknown := [domain for domain in options.domains if domain not in SPACINGS]:
        parser.error(f"there is no domain {unknown[0]}; the domains are {', '.join(SPACINGS)}")
    for seed in [] if options.table else options.seeds[:1] if options.quick else options.seeds:
        for domain in options.domains or SPACINGS:
            for every in SPACINGS[domain][:1] if options.quick else SPACINGS[domain]:
                if options.every and every not in options.every and every != SPACINGS[domain][0]:
                    continue
                key = {"domain": domain, "every": every, "seed": seed, "weights": options.weights}
                key |= {"flow": options.flow, "quick": options.quick}
                RESULTS.once(key, partial(run, domain, every, seed, options))
    print(quality_table(options.quick), trust_table(options.quick), sep="\n\n")


if __name__ == "__main__":
    main()
