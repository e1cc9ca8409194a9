"""Compare settings of the optical flow by the mIoU of motion-only labels on the held-out frames.

Each setting of DIS is used with the composed flow alone ("composed"), and with direct flows as well ("and direct").

    python experiments/propagation/motion.py camvid --every 10 25 50
    python experiments/propagation/motion.py davis2016 --every 20 --settings medium@1 fine@1 fine@2
    python experiments/propagation/motion.py domains/em --every 10 --settings fine@1 fine@auto fine@2 --direct
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs

SETTINGS = ["ultrafast@1", "fast@1", "medium@1", "fine@1", "medium@2", "fine@2"]
METHODS = ["motion:previous", "motion"]


def score(root: str, clips: list[str] | None, every: int, flow: FlowCache, direct: bool) -> list[str]:
    """Score both methods: mIoU of each, and seconds."""
    index = select_clips(open_index(root), SelectArgs(clips, every))
    flow.any_frames = direct
    module = PropagationModule(index.label_map.num_classes, METHODS, flow=flow).eval()
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    started = time.perf_counter()
    with torch.inference_mode():
        for number in tqdm(range(len(items)), desc=f"{root} K={every}", unit="interval"):
            module.test_step(items[number], number)
    seconds = time.perf_counter() - started
    scores = module.score.compute()
    return [*(f"{scores[method]['miou']:.2f}" for method in METHODS), f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--clips", nargs="+", help="only these clips")
    parser.add_argument("--every", type=int, nargs="+", default=[25])
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="preset@scale; scale auto: the default")
    parser.add_argument("--direct", action="store_true", help="with direct flows only")
    options = parser.parse_args()
    columns = [(root, every) for root in options.roots for every in options.every]
    header = ["", *(f"{Path(root).name} K={every}, {w}" for root, every in columns for w in (*METHODS, "s"))]
    rows = []
    for setting in options.settings:
        preset, _, scale = setting.partition("@")
        for direct in (True,) if options.direct else (False, True):
            cells = [f"{setting} {'and direct' if direct else 'composed'}"]
            for root, every in columns:
                cells += score(
                    root,
                    options.clips,
                    every,
                    FlowCache(DIS(preset, None if scale == "auto" else float(scale))),
                    direct,
                )
            rows.append(cells)
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
