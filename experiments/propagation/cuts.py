"""Measure how well cuts are told from motion, from flashes and from failing flow, see wrp.geometry.cuts.

Cuts are made of frames of different clips, and, with the same colours, of frames half a clip apart of which the later
one is turned by 180°. The other pairs are neighbouring frames; frames three and eight apart, as if those between were
lost; and neighbours from which on all is brighter or black, or of which the second one alone is brighter. A black frame
counts as a cut. Each pair comes with the frames before and behind it.

    python experiments/propagation/cuts.py camvid davis2016 domains/vocalfolds domains/em domains/chair
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from wrp.data.layouts.registry import open_index
from wrp.flow.presets import make_flow
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.cuts import compare, is_cut
from wrp.io.images import read_image
from wrp.io.progress import progress
from wrp.io.tables import markdown_table
from wrp.structures import VideoFrame

Image = Path | VideoFrame

CUTS = ("cut", "same colours", "black")


@dataclass(frozen=True)
class Pair:
    """A kind of pair, and four frames: the two in the middle, that before and that behind them."""

    kind: str
    frames: tuple[Image, Image, Image, Image]


def pairs_of(clips: list[list[Image]], count: int, seed: int) -> list[Pair]:
    """Draw pairs of frames: of each clip up to ``count`` of each kind, and two cuts between any two clips."""
    chance = random.Random(seed)
    pairs: list[Pair] = []
    for frames in clips:
        kinds = [("next", 1, 1), ("3 apart", 3, 3), ("8 apart", 8, 3), ("brighter", 1, 6), ("flash", 1, 6)]
        for kind, apart, share in (*kinds, ("black", 1, 6)):
            starts = range(1, len(frames) - apart - 1)
            for i in sorted(chance.sample(starts, min(-(-count // share), len(starts)))):
                pairs.append(Pair(kind, (frames[i - 1], frames[i], frames[i + apart], frames[i + apart + 1])))
        for i in sorted(chance.sample(range(1, len(frames) - 1), min(-(-count // 6), len(frames) - 2))):
            far = min((i + len(frames) // 2) % len(frames), len(frames) - 2)
            pairs.append(Pair("same colours", (frames[i - 1], frames[i], frames[far], frames[far + 1])))
        for other in clips:
            if other is not frames:
                for _ in range(2):
                    at, to = chance.randrange(1, len(frames)), chance.randrange(len(other) - 1)
                    pairs.append(Pair("cut", (frames[at - 1], frames[at], other[to], other[to + 1])))
    return pairs


def brighter(frame: Tensor) -> Tensor:
    return (frame.float() * 1.6 + 20).clamp(0, 255).byte()


def turned(frame: Tensor) -> Tensor:
    return frame.flip(2, 3).contiguous()


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], Tensor] | None]] = {
    "same colours": (turned, turned),
    "brighter": (brighter, brighter),
    "flash": (brighter, None),
    "black": (torch.zeros_like, torch.zeros_like),
}
"""What is done to the second frame of a pair and to the one behind it, by kind."""


def read_frames(pair: Pair) -> list[Tensor]:
    """Read all four, (1, 3, H, W) uint8, in the size of the first and changed as the kind says."""
    frames = [read_image(path)[None] for path in pair.frames]
    size = frames[0].shape[-2:]
    for i in range(1, 4):
        if frames[i].shape[-2:] != size:
            frames[i] = functional.interpolate(frames[i].float(), size, mode="area").round().byte()
    for i, change in enumerate(CHANGES.get(pair.kind, ()), 2):
        if change is not None:
            frames[i] = change(frames[i])
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--flow", default="dis-fast", help="a preset of wrp.flow")
    parser.add_argument("--count", type=int, default=30, help="neighbouring pairs of each clip")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clips = [[frame.image for frame in clip.frames] for root in options.roots for clip in open_index(root).clips]
    flow = make_flow(options.flow, {})
    found: dict[str, list[list[float]]] = defaultdict(list)
    called: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for pair in progress(pairs_of(clips, options.count, options.seed), desc="Comparing", unit="pair"):
        before, frame, other, behind = read_frames(pair)
        flows = NeighbourFlow(flow(frame, other), flow(other, frame))
        for number, sides in enumerate(((None, None), (before, behind))):
            called[pair.kind][number] += int(is_cut(frame, other, flows, *sides).item())
        colours, change, structure = (part.item() for part in compare(frame, other, flows))
        around = max(compare(*two, flows)[1].item() for two in ((before, frame), (other, behind)))
        found[pair.kind].append([colours, change / max(around, 1e-3), structure])
    rows = []
    for kind, values in found.items():
        parts = torch.tensor(values).quantile(torch.tensor([0.02, 0.5, 0.98]), 0).T.tolist()
        spans = [" / ".join(f"{value:.2f}" for value in part) for part in parts]
        rows.append([kind, str(len(values)), "yes" if kind in CUTS else "no", *map(str, called[kind]), *spans])
    header = ["pairs", "count", "cut", "called a cut, by the pair alone", "called a cut"]
    print(markdown_table([*header, "colours (2, 50, 98 %)", "change over that around", "structure"], rows))


if __name__ == "__main__":
    main()
