"""Compare the whole job by motion with what people run instead: seconds a frame, peak memory and mIoU, and a picture.

Each program labels a data set in a process of its own, with one thread, from the files of its frames to the files of
its labels; imports are left out. Of `wrp` it is the whole job: checks, calibration and report included. The others are
plain references: `copy`, the label of the nearest keyframe; `warp`, that label along the composed flow; and `vote`,
SegProp's (Marcu et al., 2020), once, vectorised, from both keyframes. Their flow is OpenCV's DIS `medium`.

    python experiments/benchmarks/peers.py camvid --every 10 25 50
    python experiments/benchmarks/peers.py --draw docs/images/peers.svg         the picture of the results so far

Results are appended to peers.jsonl as they come; what the file holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning  # noqa: F401 imported before the clock starts
import torch
from machine import commit
from measuring import Rows, in_fresh_process, memory_of_this_process, table, use_threads
from torch import Tensor
from voting import straightforward_vote, traced

from wrp.data.index import ClipIndex, select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.flow.dis import grey_image
from wrp.geometry.composed import NeighbourFlow
from wrp.io.images import read_frame_label, read_label
from wrp.metrics import SegmentationScore
from wrp.options import SelectArgs
from wrp.runs.autolabel import autolabel
from wrp.runs.config import RunArgs, Settings
from wrp.structures import IGNORE_INDEX, ClipBatch

sys.path.append(str(Path(__file__).parents[1]))
from results import Results

RESULTS = Results(Path(__file__).with_name("peers.jsonl"))
PRESETS = ("dis-fast", "dis", "dis-best")


def plain_flow(batch: ClipBatch) -> tuple[list[NeighbourFlow], float]:
    """Estimate the flows of an interval, and how long that takes in seconds."""
    started, dis = time.perf_counter(), cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [grey_image(batch.frame(index)) for index in range(batch.first, batch.first + len(batch.frames))]

    def estimate(one: np.ndarray, other: np.ndarray) -> Tensor:
        return torch.from_numpy(dis.calc(one, other, None)).permute(2, 0, 1)[None].contiguous()

    flows = [NeighbourFlow(estimate(a, b), estimate(b, a)) for a, b in zip(grey, grey[1:], strict=False)]
    return flows, time.perf_counter() - started


def nearest(batch: ClipBatch, index: int) -> int:
    return min(batch.labels, key=lambda keyframe: abs(keyframe - index))


def warped(batch: ClipBatch, flows: list[NeighbourFlow], index: int) -> Tensor:
    """Return the label of the nearest keyframe along the composed flow."""
    keyframe, at = nearest(batch, index), index - batch.first
    to = keyframe - batch.first
    way = [f.flow_bw for f in reversed(flows[to:at])] if to < at else [f.flow_fw for f in flows[at:to]]
    height, width = batch.labels[keyframe].shape
    x, y = (traced(way)[0] + 0.5).floor().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    label = batch.labels[keyframe][y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return label.masked_fill(~inside, IGNORE_INDEX)


def by_reference(way: str, index: ClipIndex, out: Path) -> float:
    """Label all intervals between two keyframes plainly; returns the seconds of the flow."""
    items, of_flow = IntervalItems(index.clips, index.label_map), 0.0
    for number in range(len(items)):
        batch = items[number]
        flows, seconds = ([], 0.0) if way == "copy" else plain_flow(batch)
        of_flow += seconds
        todo = [i for i in range(*batch.queries) if i not in batch.labels]
        if way == "vote":
            made = straightforward_vote(batch, flows, index.label_map.num_classes)
        elif way == "warp":
            made = [warped(batch, flows, i) for i in todo]
        else:
            made = [batch.labels[nearest(batch, i)] for i in todo]
        for i, label in zip(todo, made, strict=True):
            path = out / "labels" / batch.clip / f"{batch.stems[i - batch.first]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), label.numpy())
    return of_flow


def by_wrp(flow: str, root: str, every: int, out: Path) -> float:
    """Run the job; returns the seconds of the flow."""
    select = SelectArgs(label_every=every)
    metrics = autolabel(Settings(root, str(out), select=select, methods="motion", run=RunArgs(flow=flow)))
    assert metrics is not None
    seconds: float = metrics["seconds"]["flow"]
    return seconds


def measure(root: str, every: int, program: str) -> dict[str, Any]:
    """Label a data set by one of the programs, and score what was written."""
    index = select_clips(open_index(root), SelectArgs(label_every=every))
    with tempfile.TemporaryDirectory() as folder:
        out, started = Path(folder, "out"), time.perf_counter()
        of_flow = by_wrp(program, root, every, out) if program in PRESETS else by_reference(program, index, out)
        seconds, peak = time.perf_counter() - started, memory_of_this_process("VmHWM")
        score, frames = SegmentationScore(index.label_map.num_classes), 0
        for clip in index.clips:
            frames += len(clip.frames) - len(clip.keyframes)
            for i in clip.held_out:
                path = out / "labels" / clip.name / f"{clip.frames[i].stem}.png"
                made = read_label(path, index.label_map.written)
                score.update(made[None], read_frame_label(clip.frames[i], index.label_map)[None])
    miou = round(100 * score.compute().item(), 2)
    return {"frames": frames, "seconds": seconds, "of_flow": of_flow, "peak": peak, "miou": miou}


def in_own_process(root: str, every: int, program: str) -> dict[str, Any]:
    """Measure a program in a process of its own, and note the commit."""
    found: dict[str, Any] = in_fresh_process(__file__, root, "--every", every, "--programs", program, "--one")
    return {"commit": commit()} | found


def rows() -> Rows:
    return [
        {
            "data": f"{found['root']}, K={found['every']}",
            "program": SHOWN[found["program"]],
            "mIoU": found["miou"],
            "ms a frame": 1e3 * found["seconds"] / found["frames"],
            # wrp's flow runs in threads, which share the core: their times overlap.
            "of that, flow": None if found["program"] in PRESETS else 1e3 * found["of_flow"] / found["frames"],
            "peak, MB": round(found["peak"]),
            "commit": found["commit"],
        }
        for found in RESULTS
    ]


SHOWN = {"copy": "copy", "warp": "warp", "vote": "vote (SegProp)"} | {name: f"wrp, {name}" for name in PRESETS}


def draw(path: Path, results: list[dict[str, Any]]) -> None:
    """Draw mIoU over the seconds a frame, on a logarithmic scale, a panel for each spacing."""
    panels: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for found in results:
        panels[found["every"]].append(found)
    width, height, left, top = 230, 230, 46, 34
    times = [found["seconds"] / found["frames"] for found in results]
    scores = [found["miou"] for found in results]
    low, high = 5 * int(min(scores) // 5), 5 * (int(max(scores) // 5) + 1)
    first, last = np.log10(min(times)) - 0.2, np.log10(max(times)) + 0.3

    def x(seconds: float) -> float:
        return width * (np.log10(seconds) - first) / (last - first)

    def y(miou: float) -> float:
        return height * (high - miou) / (high - low)

    marks = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(panels) * (width + left) + 20}" height="{height + 80}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    ticks = [t for t in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0) if first <= np.log10(t) <= last]
    for number, (every, found) in enumerate(sorted(panels.items())):
        marks.append(f'<g transform="translate({left + number * (width + left)},{top})">')
        marks.append(f'<text x="{width / 2}" y="-14" text-anchor="middle" font-size="13">K = {every}</text>')
        for score in range(low, high + 1, 5):
            marks.append(f'<path d="M0 {y(score):.1f}H{width}" stroke="#ddd"/>')
            marks.append(f'<text x="-6" y="{y(score) + 4:.1f}" text-anchor="end">{score}</text>')
        for tick in ticks:
            marks.append(f'<path d="M{x(tick):.1f} 0V{height}" stroke="#eee"/>')
            marks.append(f'<text x="{x(tick):.1f}" y="{height + 16}" text-anchor="middle">{tick:g}</text>')
        marks.append(f'<text x="{width / 2}" y="{height + 34}" text-anchor="middle">seconds a frame</text>')
        ours = sorted((one for one in found if one["program"] in PRESETS), key=lambda one: one["seconds"])
        line = " ".join(f"{x(one['seconds'] / one['frames']):.1f},{y(one['miou']):.1f}" for one in ours)
        marks.append(f'<polyline points="{line}" fill="none" stroke="#0a6ebd"/>')
        for one in found:
            place = x(one["seconds"] / one["frames"]), y(one["miou"])
            colour, end = ("#0a6ebd", "end") if one["program"] in PRESETS else ("#c43c00", "start")
            marks.append(f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="4" fill="{colour}"/>')
            aside = (-7, -6) if end == "end" else (7, 14)
            at = f'x="{place[0] + aside[0]:.1f}" y="{place[1] + aside[1]:.1f}"'
            label = f'<text {at} text-anchor="{end}" fill="{colour}">'
            marks.append(f"{label}{one['program']}</text>")
        marks.append("</g>")
    marks.append(f'<text x="12" y="{top - 14}">mIoU, %</text></svg>')
    path.write_text("\n".join(marks) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--programs", nargs="+", choices=SHOWN, default=list(SHOWN))
    parser.add_argument("--draw", type=Path, metavar="SVG", help="draw the picture")
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV (default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.root, options.every[0], options.programs[0])))
        return
    if options.root is not None:
        for every in options.every:
            for program in options.programs:
                key = {"root": options.root, "every": every, "program": program}
                make: Callable[[], dict[str, Any]] = partial(in_own_process, options.root, every, program)
                RESULTS.once(key, make)
    print(table(rows()))
    if options.draw is not None:
        draw(options.draw, list(RESULTS))


if __name__ == "__main__":
    main()
