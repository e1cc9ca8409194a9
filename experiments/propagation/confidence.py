"""Measure how the confidence of motion tells right labels from wrong ones, with and without the look of the frame.

AUROC is the area under the ROC curve of right against wrong labels, ECE the expected calibration error (20 bins)
without the calibration of a run; both of a random part of the pixels of each held-out frame. Columns are the
constants SAME and UNLIKE of wrp.geometry.fusion; the first one is the share of the votes alone.

    python experiments/propagation/confidence.py camvid:10 camvid:25 domains/vocalfolds:6 domains/em:6 domains/chair:10
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.geometry import fusion
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs
from wrp.structures import IGNORE_INDEX

NEVER = float("inf")
ROWS = [(0.02, NEVER), (0.01, 0.4), (0.02, 0.5), (0.02, 0.4), (0.02, 0.33), (0.03, 0.4)]


def pixels(root: str, every: int, flow: str, count: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield of each held-out frame the confidence of some pixels for each row, and where their label is right."""
    index = select_clips(open_index(root), SelectArgs(label_every=every))
    module = PropagationModule(index.label_map.num_classes, flow=flow).eval()
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    generator = torch.Generator().manual_seed(0)
    for number in tqdm(range(len(items)), desc=f"{root}, K={every}", unit="interval"):
        batch = items[number]
        for frame in module.session(batch, only=batch.held_out).frames():
            if frame.known is None or frame.known.warped is None:
                continue
            warped, truth = frame.known.warped, batch.held_out[frame.known.index]
            labels, share = fusion.blend_labels(warped, fusion.blend_weights(warped), module.num_classes)
            known = ((truth != IGNORE_INDEX) & (labels != IGNORE_INDEX)).flatten().nonzero()[:, 0]
            drawn = known[torch.randperm(len(known), generator=generator)[:count]]
            found = []
            for fusion.SAME, fusion.UNLIKE in ROWS:
                found.append((share * fusion.likeness(warped, labels)).flatten()[drawn])
            yield found, (labels == truth).flatten()[drawn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data set and spacing of its keyframes, ROOT:K")
    parser.add_argument("--flow", default="dis-fast", help="a preset of wrp.flow")
    parser.add_argument("--pixels", type=int, default=8000, help="at most as many of each frame")
    options = parser.parse_args()
    header = [f"{same}, –" if unlike == NEVER else f"{same}, {unlike}" for same, unlike in ROWS]
    rows = []
    with torch.inference_mode():
        for one in options.data:
            root, every = one.rsplit(":", 1)
            found, right = zip(*pixels(root, int(every), options.flow, options.pixels), strict=True)
            truth = torch.cat(right).long()
            rows.append([f"{root}, K={every}", f"{100 * truth.float().mean():.1f} %"])
            for confidence in map(torch.cat, zip(*found, strict=True)):
                scores = binary_auroc(confidence, truth), binary_calibration_error(confidence, truth, 20)
                rows[-1].append(" / ".join(f"{score:.3f}" for score in scores))
            print(rows[-1], flush=True)
    print(markdown_table(["AUROC / ECE", "right", *header], rows))


if __name__ == "__main__":
    main()
