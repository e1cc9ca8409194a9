"""Fit the weights of the two-keyframe blend (wrp/geometry/fusion.py) on held-out labels between keyframes.

The fit uses the pixels where the sources disagree and some of them are right. The probability of the true class is
modelled as the sum of the normalised weights of the sources that name it. A weight is w ∝ exp(θ · f), with the features
f = (log distance, photometric error, motion error, direct flow); θ maximises the likelihood. Each setting is fitted by
itself, and then all together with the same number of pixels from each.

    python experiments/propagation/fit.py camvid davis2016 --every 10 25
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from wrp.data.index import select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.fusion import NEARNESS, PHOTOMETRIC_SCALE, TRUST_IN_ERROR, WarpedLabels
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs
from wrp.propagation.warping import IntervalWarper
from wrp.structures import IGNORE_INDEX, ClipBatch

HEADER = [
    "fitted on",
    "pixels",
    "log distance",
    "photometric error",
    "motion error",
    "direct flow",
    "right, fitted",
    "right, defaults",
]
DEFAULTS = torch.tensor([-NEARNESS, -1 / PHOTOMETRIC_SCALE, float(torch.tensor(TRUST_IN_ERROR).log()), 0.0])

# Sources of two keyframes along two flows each, and the greatest number of pixels of a setting.
SOURCES = 4
PIXELS = 200_000

Pixels = tuple[Tensor, Tensor, Tensor]
"""Features (N, S, 4), labels (N, S) and truth (N,)."""


def features(warped: WarpedLabels) -> Tensor:
    """Compute the features of each source, (S, 4, H, W) float32."""
    distance = warped.distance.log().view(-1, 1, 1).expand(warped.labels.shape)
    direct = torch.arange(SOURCES).remainder(2).view(-1, 1, 1).expand(warped.labels.shape)
    return torch.stack((distance, warped.photometric.float(), warped.error.float(), direct.float()), 1)


def warped_at_held_out(batch: ClipBatch, flow: FlowCache) -> Iterator[tuple[int, WarpedLabels]]:
    """Warp the labels of the keyframes into each held-out frame of an interval."""
    with IntervalWarper(batch, flow) as warped:
        for at in sorted(batch.held_out):
            yield at, warped.at(at)


def disagreeing(root: str, clips: list[str] | None, every: int, flow: FlowCache) -> Pixels:
    """Collect pixels of held-out frames where some sources are right and others are wrong."""
    index = select_clips(open_index(root), SelectArgs(clips, every))
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    generator = torch.Generator().manual_seed(0)
    per_frame = PIXELS / max(1, sum(len(clip.held_out) for clip in index.clips))
    found: list[Pixels] = []
    for number in tqdm(range(len(items)), desc=f"{Path(root).name} K={every}", unit="interval"):
        batch = items[number]
        for at, warped in warped_at_held_out(batch, flow):
            if len(warped.labels) < SOURCES:
                continue
            truth = batch.held_out[at]
            right = warped.labels == truth
            place = ((truth != IGNORE_INDEX) & right.any(0) & (warped.known & ~right).any(0)).flatten().nonzero()[:, 0]
            place = place[torch.randperm(len(place), generator=generator)[: max(1, int(per_frame))]]
            maps = (features(warped).flatten(2), warped.labels.flatten(1), truth.flatten())
            found.append((maps[0][..., place].permute(2, 0, 1), maps[1][:, place].T, maps[2][place]))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def weights_of_truth(theta: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Weight of the sources that name the truth, and the greatest weight of any other class, (N,) each."""
    given, labels, truth = pixels
    weights = (given @ theta).masked_fill(labels == IGNORE_INDEX, -1e9).softmax(1)
    same = (labels[:, :, None] == labels[:, None, :]).float()
    votes = (same @ weights[:, :, None])[..., 0].masked_fill(labels == IGNORE_INDEX, 0.0)
    right = labels == truth[:, None]
    return (weights * right).sum(1), votes.masked_fill(right, 0.0).amax(1)


def fit(pixels: Pixels) -> Tensor:
    """Fit θ (4,) by maximum likelihood."""
    theta = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -weights_of_truth(theta, pixels)[0].clamp(min=1e-6).log().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


def right(theta: Tensor, pixels: Pixels) -> str:
    """Percentage of the pixels where the truth has the greatest weight."""
    truth, other = weights_of_truth(theta, pixels)
    return f"{100 * (truth > other).double().mean():.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--clips", nargs="+", help="only these clips")
    parser.add_argument("--every", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--flow-cache", help="folder of flows to share between runs")
    options = parser.parse_args()
    flow = FlowCache(DIS(), options.flow_cache)
    named: dict[str, Pixels] = {}
    for root in options.roots:
        for every in options.every:
            named[f"{Path(root).name} K={every}"] = disagreeing(root, options.clips, every, flow)
    least = min(len(pixels[2]) for pixels in named.values())
    generator = torch.Generator().manual_seed(0)
    drawn = [
        [part[chosen] for part in pixels]
        for pixels in named.values()
        for chosen in [torch.randperm(len(pixels[2]), generator=generator)[:least]]
    ]
    together = tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))
    named["all, equally weighted"] = together  # type: ignore[assignment]
    rows = []
    for name, pixels in named.items():
        theta = fit(pixels)
        cells = [f"{value:.2f}" for value in theta.tolist()]
        rows.append([name, str(len(pixels[2])), *cells, right(theta, pixels), right(DEFAULTS, pixels)])
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
