"""Measure how well cuts are told from motion, from flashes and from failing flow, see wrp.geometry.cuts.

Cuts are made of frames of different clips. The other pairs are neighbouring frames, frames three apart, and neighbours
of which the second is made brighter or black. A black frame counts as a cut.

    python experiments/propagation/cuts.py camvid davis2016 domains/vocalfolds domains/em domains/chair
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from wrp.data.layouts.registry import open_index
from wrp.flow.presets import make_flow
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.cuts import COLOURS, STRUCTURE, compare
from wrp.io.images import read_image
from wrp.io.progress import progress
from wrp.io.tables import markdown_table

CUTS = ("cut", "black")

Pair = tuple[str, Path, Path]
"""Kind of a pair, and its frames."""


def pairs_of(clips: list[list[Path]], count: int, seed: int) -> list[Pair]:
    """Draw pairs of frames: of each clip up to ``count`` of each kind, and two cuts between any two clips."""
    chance = random.Random(seed)
    pairs: list[Pair] = []
    for frames in clips:
        for kind, apart, share in (("next", 1, 1), ("3 apart", 3, 3), ("brighter", 1, 6), ("black", 1, 6)):
            starts = range(len(frames) - apart)
            for i in sorted(chance.sample(starts, min(-(-count // share), len(starts)))):
                pairs.append((kind, frames[i], frames[i + apart]))
        for other in clips:
            if other is not frames:
                pairs += [("cut", chance.choice(frames), chance.choice(other)) for _ in range(2)]
    return pairs


def read_pair(pair: Pair) -> tuple[Tensor, Tensor]:
    """Read both frames, (1, 3, H, W) uint8, the second in the size of the first and changed as its kind says."""
    kind, first, second = pair
    frame, other = read_image(first)[None], read_image(second)[None]
    if other.shape != frame.shape:
        other = functional.interpolate(other.float(), frame.shape[-2:], mode="area").round().byte()
    if kind == "brighter":
        other = (other.float() * 1.6 + 20).clamp(0, 255).byte()
    return frame, torch.zeros_like(other) if kind == "black" else other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--flow", default="dis-fast", help="a preset of wrp.flow")
    parser.add_argument("--count", type=int, default=30, help="neighbouring pairs of each clip")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clips = [[frame.image for frame in clip.frames] for root in options.roots for clip in open_index(root).clips]
    flow = make_flow(options.flow, {})
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for pair in progress(pairs_of(clips, options.count, options.seed), desc="Comparing", unit="pair"):
        frame, other = read_pair(pair)
        colours, structure = compare(frame, other, NeighbourFlow(flow(frame, other), flow(other, frame)))
        found[pair[0]].append((colours.item(), structure.item()))
    rows = []
    for kind, values in found.items():
        called = sum(colours > COLOURS and structure < STRUCTURE for colours, structure in values)
        parts = torch.tensor(values).quantile(torch.tensor([0.02, 0.5, 0.98]), 0).T.tolist()
        spans = [" / ".join(f"{value:.2f}" for value in part) for part in parts]
        rows.append([kind, str(len(values)), "yes" if kind in CUTS else "no", f"{called}", *spans])
    print(markdown_table(["pairs", "count", "cut", "called a cut", "colours (2, 50, 98 %)", "structure"], rows))


if __name__ == "__main__":
    main()
