"""Fit the weights of the two-anchor blend (wrp/ops/fusion.py) on anchor-to-anchor pairs.

Where two anchors name different classes and one of them is right, the odds of the first are modelled as
exp(θ · (f₁ - f₂)) with the features f = (log distance, photometric error, motion error): a conditional logit, fitted by
Newton's method. Each setting is fitted by itself and all together, with the same weight for each.

    python experiments/propagation/fit.py camvid davis2016 --every 5 10 20 25 50
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from wrp.data.clips import select_clips
from wrp.data.datasets import open_index
from wrp.data.items import IntervalItems
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.flow.walk import walk_interval
from wrp.ops.fusion import NEARNESS, PHOTOMETRIC_SCALE, TRUST_IN_ERROR, Evidence
from wrp.pipeline.report import markdown_table
from wrp.types import IGNORE_INDEX

HEADER = [
    "fitted on",
    "pixels",
    "log distance",
    "photometric error",
    "motion error",
    "right, fitted",
    "right, defaults",
]
DEFAULTS = torch.tensor([-NEARNESS, -1 / PHOTOMETRIC_SCALE, float(torch.tensor(TRUST_IN_ERROR).log())]).double()


def features(evidence: Evidence) -> Tensor:
    """(S, 3, H, W) float64."""
    distance = evidence.distance.log().view(-1, 1, 1).expand(evidence.labels.shape)
    return torch.stack((distance, evidence.photometric.float(), evidence.error.float()), 1).double()


def pairs(root: str, every: int, flow: FlowCache) -> tuple[Tensor, Tensor]:
    """Differences of the features (N, 3) and whether the first anchor is the one that is right, (N,)."""
    index = select_clips(open_index(root), None, every, 0)
    items = IntervalItems(index.clips, index.label_map, with_hidden=True)
    differences, first_is_right = [], []
    for number in tqdm(range(len(items)), desc=f"{Path(root).name} K={every}", unit="interval"):
        batch = items[number]
        for at, evidence in walk_interval(batch, flow):
            if evidence is None or at not in batch.hidden or len(evidence.labels) < 2:
                continue
            truth = batch.hidden[at]
            right = evidence.labels == truth
            counted = (truth != IGNORE_INDEX) & evidence.known.all(0) & (right[0] ^ right[1])
            both = features(evidence)[:, :, counted]
            differences.append((both[0] - both[1]).T)
            first_is_right.append(right[0][counted].double())
    return torch.cat(differences), torch.cat(first_is_right)


def fit(differences: Tensor, first_is_right: Tensor) -> Tensor:
    """θ (3,) of greatest likelihood."""
    theta = torch.zeros(differences.shape[1], dtype=torch.double)
    for _ in range(20):
        p = (differences @ theta).sigmoid()
        hessian = (differences * (p * (1 - p))[:, None]).T @ differences
        theta = theta + torch.linalg.solve(hessian, differences.T @ (first_is_right - p))
    return theta


def right(theta: Tensor, differences: Tensor, first_is_right: Tensor) -> str:
    """Share of the pixels where the greater weight is the right one."""
    return f"{100 * ((differences @ theta > 0) == (first_is_right > 0.5)).double().mean():.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--flow-cache", help="folder of flows to share between runs")
    options = parser.parse_args()
    flow = FlowCache(DIS(), options.flow_cache)
    settings = {(root, every): pairs(root, every, flow) for root in options.roots for every in options.every}
    least = min(len(first) for _, first in settings.values())
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(len(first), generator=generator)[:least] for _, first in settings.values()]
    named = {f"{Path(root).name} K={every}": given for (root, every), given in settings.items()}
    both = [torch.cat([given[i][d] for given, d in zip(settings.values(), drawn, strict=True)]) for i in (0, 1)]
    named["all, each the same"] = (both[0], both[1])
    rows = []
    for name, given in named.items():
        theta = fit(*given)
        cells = [f"{value:.2f}" for value in theta.tolist()]
        rows.append([name, str(len(given[1])), *cells, right(theta, *given), right(DEFAULTS, *given)])
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
