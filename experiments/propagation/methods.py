"""Score propagation methods on the held-out frames of data sets: every method in every setting, in one table.

    python experiments/propagation/methods.py camvid --every 5 10 25 50
    python experiments/propagation/methods.py davis2016 --every 10 --methods motion vote-once vote
    python experiments/propagation/methods.py camvid --every 25 --teacher DIR/teacher.ckpt --refiner DIR/refiner.ckpt

Data sets of masks of one object are scored by J and F as well, by distance to the nearest keyframe.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import ClipIndex, select_clips
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.io.tables import markdown_table
from wrp.metrics.masks import boundary_accuracy, region_similarity
from wrp.options import SelectArgs

BY_MOTION = [
    *("copy:previous", "copy:nearest", "copy"),
    *("motion:previous", "motion:nearest", "motion"),
    *("vote-once:previous", "vote-once:nearest", "vote-once"),
    *("vote:previous", "vote:nearest", "vote"),
]
BY_NETWORKS = [
    "semantic",
    *("inpaint:previous", "inpaint:nearest", "inpaint"),
    *("refine:previous", "refine:nearest", "refine"),
]
DISTANCES = (1, 2, 3, 5, 8, 12, 18, 25)


Masks = dict[tuple[str, int], list[tuple[float, float]]]
"""J and F of each frame with a mask of one object, by method and by the distance that its bin begins at."""


def score(
    index: ClipIndex,
    methods: list[str],
    teacher: str | None = None,
    refiner: str | None = None,
    flow: FlowEstimator | None = None,
    calibrate: bool = False,
    name: str = "",
) -> tuple[dict[str, dict[str, Any]], Masks]:
    """Score methods on the held-out frames of a data set.

    Args:
        index: The clips, some of whose labels are held out.
        methods: Propagation methods.
        teacher: Checkpoint of the teacher.
        refiner: Checkpoint of the refiner.
        flow: Flow estimator; None: DIS.
        calibrate: Whether to calibrate the confidence on held-out keyframes.
        name: Text of the progress bar.

    Returns:
        The result of :meth:`~wrp.metrics.propagation.PropagationScore.compute`, and the scores of masks, if any.
    """
    module = PropagationModule(index.label_map.num_classes, methods, teacher, refiner, flow).eval()
    if calibrate:
        held_out = HeldOutItems(index.clips, index.label_map)
        module.calibrate(held_out[i] for i in range(len(held_out)))
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    masks: Masks = defaultdict(list)
    with torch.inference_mode():
        for number in tqdm(range(len(items)), desc=name, unit="interval"):
            for labels, truth in module.at_held_out(items[number]):
                module.score.update_frame(labels, truth)
                if index.binary:
                    for method in methods:
                        found, wanted = labels[method][0].numpy() == 1, truth.labels.numpy() == 1
                        near = max(d for d in DISTANCES if d <= truth.distance)
                        masks[method, near].append((region_similarity(found, wanted), boundary_accuracy(found, wanted)))
    return module.score.compute(), masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, nargs="+", default=[25])
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--clips", nargs="+", help="only these clips")
    parser.add_argument("--methods", nargs="+", help="default: all that work with the given networks")
    parser.add_argument("--teacher", help="checkpoint")
    parser.add_argument("--refiner", help="checkpoint")
    parser.add_argument("--calibrate", action="store_true", help="calibrate the confidence on held-out keyframes")
    parser.add_argument("--flow-cache", help="folder of flows to share between runs")
    options = parser.parse_args()
    networks = [m for m in BY_NETWORKS if options.refiner or not m.startswith("refine")] if options.teacher else []
    methods = options.methods or [*BY_MOTION, *networks]
    scores: dict[str, list[float]] = {method: [] for method in methods}
    calibration: dict[str, list[float | None]] = {}
    header, tables = [""], []
    flow = FlowCache(DIS(), options.flow_cache)
    for root in options.roots:
        for every in options.every:
            index = select_clips(open_index(root), SelectArgs(options.clips, every, options.offset))
            header.append(f"{Path(root).name} K={every}")
            found, masks = score(index, methods, options.teacher, options.refiner, flow, options.calibrate, header[-1])
            for method, one in found.items():
                scores.setdefault(method, []).append(one["miou"])
                calibration.setdefault(method, []).append(one.get("ece"))
            if masks:
                tables.append(f"{header[-1]}, J / F by distance\n\n{by_distance(masks, methods)}")
    print(markdown_table(header, [[method, *(f"{v:.2f}" for v in values)] for method, values in scores.items()]))
    cells = [[name, *("–" if v is None else f"{v / 100:.3f}" for v in values)] for name, values in calibration.items()]
    print(f"\nExpected calibration error\n\n{markdown_table(header, cells)}")
    for table in tables:
        print(f"\n{table}")


def by_distance(masks: Masks, methods: list[str]) -> str:
    """Format J and F in percent, mean over the frames from each distance to below the next one."""
    distances = sorted({distance for _, distance in masks})
    rows = []
    for method in methods:
        pairs = [masks[method, d] for d in distances] + [[p for d in distances for p in masks[method, d]]]
        rows.append(
            [method, *(" / ".join(f"{100 * sum(v) / len(v):.1f}" for v in zip(*p, strict=True)) for p in pairs)]
        )
    return markdown_table(["", *(f"d ≥ {d}" for d in distances), "all"], rows)


if __name__ == "__main__":
    main()
