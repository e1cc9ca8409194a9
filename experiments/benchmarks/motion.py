"""Time and memory of everything geometric, as ratios measured in one run.

    python experiments/benchmarks/motion.py                      all tables, on a generated clip
    python experiments/benchmarks/motion.py --root camvid        on a real clip; adds the table of composed flow
    python experiments/benchmarks/motion.py --only vote          one table

Frames are decoded before the clock starts. Each time is the least of several repetitions; what is compared takes turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wrp import PropagationModule, RefinementModule, SegmentationModule
from wrp.data.clips import select_clips
from wrp.data.datasets import open_index
from wrp.data.datasets.synthetic import render_clip
from wrp.data.items import WindowItems
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS, create_dis, grey_image
from wrp.flow.estimator import FlowEstimator
from wrp.flow.votes import vote_sources
from wrp.flow.walk import walk_interval
from wrp.metrics.segmentation import confusion, mean_iou
from wrp.ops.chain import NeighbourFlow, extend_near, start_chain
from wrp.ops.fusion import anchor_weights, blend, elect
from wrp.ops.labels import decide_frame
from wrp.ops.vote import source_weights
from wrp.ops.warp import coordinates, sample, warp_labels
from wrp.pipeline.report import markdown_table
from wrp.pipeline.settings import Settings
from wrp.types import IGNORE_INDEX, ClipBatch

CLASSES = 11
CITYSCAPES = 19
SIZES = {"480×360": (360, 480), "1280×720": (720, 1280)}
LARGE = {"2048×1024": (1024, 2048)}


def interval(height: int, width: int, count: int) -> ClipBatch:
    """A generated interval of ``count`` frames with an anchor at both ends, in memory."""
    clip = render_clip(min(count, 51), height, width, CLASSES)
    # A longer clip runs to and fro, so that any length costs the same to make.
    order = [abs((i + 50) % 100 - 50) for i in range(count)] if count > 51 else range(count)
    frames = [torch.from_numpy(clip.frames[i]).permute(2, 0, 1).contiguous() for i in order]
    labels = {i: torch.from_numpy(clip.labels[list(order)[i]]) for i in (0, count - 1)}
    return ClipBatch("generated", [f"{i:05d}" for i in range(count)], 0, frames, labels, (0, count))


def real_interval(root: str, count: int, size: tuple[int, int] | None = None) -> ClipBatch:
    """The first ``count`` frames of a data set's first clip, their ends as anchors; scaled to ``size`` if given."""
    index = select_clips(open_index(root), None, count - 1, 0)
    batch = WindowItems(index.clips, index.label_map)[0]
    batch.targets = (0, count)
    if size is not None:
        shape = (size[1], size[0])
        batch.frames = [
            torch.from_numpy(cv2.resize(f.permute(1, 2, 0).numpy(), shape)).permute(2, 0, 1).contiguous()
            for f in batch.frames
        ]
        nearest = {"dsize": shape, "interpolation": cv2.INTER_NEAREST}
        batch.labels = {i: torch.from_numpy(cv2.resize(y.numpy(), **nearest)) for i, y in batch.labels.items()}
    return batch


def least(repetitions: int, *works: Callable[[], object]) -> list[float]:
    """The least time of each piece of work in seconds; they take turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for work, kept in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            kept.append(time.perf_counter() - started)
    return [min(kept) for kept in times]


class Given(FlowEstimator):
    """Flows that are there already."""

    any_frames = False

    def __init__(self, flows: Sequence[NeighbourFlow]) -> None:
        super().__init__()
        self.flows = flows

    @property
    def signature(self) -> str:
        return "given"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: object) -> Tensor:
        raise NotImplementedError

    def between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        return [self.flows[i] for i in indices]


# -------------------------------------------------------------------------------------------- motion-only propagation


class Recorded(DIS):
    """DIS that keeps what OpenCV was asked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def _estimate_one(self, frame_s: Tensor, frame_t: Tensor, guess: np.ndarray | None, flow: Tensor) -> None:
        kept = None if guess is None else guess.copy()
        self.calls.append((grey_image(frame_s), grey_image(frame_t), kept))
        super()._estimate_one(frame_s, frame_t, guess, flow)


def propagation(make: Callable[[int, tuple[int, int]], ClipBatch]) -> str:
    """Motion-only propagation of an interval from both anchors against its DIS calls alone."""
    rows = []
    for name, size in SIZES.items():
        batch = make(26, size)
        for setting, arguments, direct in (("medium, composed", ("medium", 1.0), False), ("default", (), True)):
            recorded = FlowCache(Recorded(*arguments))
            recorded.any_frames = direct
            propagate(batch, recorded)
            calls, preset = recorded.estimator.calls, recorded.estimator.preset

            def dis_alone(calls: list = calls, preset: str = preset) -> None:
                plain, guided = create_dis(preset), create_dis(preset, guided=True)
                for source, target, guess in calls:
                    if guess is None:
                        plain.calc(source, target, None)
                    else:
                        guided.calc(source, target, guess.copy())

            def everything(batch: ClipBatch = batch, arguments: tuple = arguments, direct: bool = direct) -> None:
                cache = FlowCache(DIS(*arguments))
                cache.any_frames = direct
                propagate(batch, cache)

            alone, whole = least(2 if direct else 5, dis_alone, everything)
            frames = len(batch.frames) - 2
            each = [f"{1e3 * alone / frames:.1f}", f"{1e3 * whole / frames:.1f}"]
            rows.append([name, setting, str(len(calls)), *each, f"{whole / alone:.2f}"])
    return markdown_table(["frames", "DIS", "calls", "DIS alone, ms a frame", "motion, ms a frame", "ratio"], rows)


def propagate(batch: ClipBatch, flow: FlowCache) -> None:
    for _ in PropagationModule(CLASSES, ["motion"], flow=flow).propagate(batch):
        pass


# --------------------------------------------------------------------------------------------------- vote and fusion


def traced(flows: list[Tensor]) -> Tensor:
    """Where a chain of flows leads, followed step by step from its beginning: coordinates (1, H, W, 2) in [-1, 1]."""
    height, width = flows[0].shape[-2:]
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    position = torch.stack((x, y), -1)[None]
    for flow in flows:
        step = functional.grid_sample(flow, position * scale - 1, padding_mode="border", align_corners=True)
        position = position + step.permute(0, 2, 3, 1)
    return position


def straightforward_vote(batch: ClipBatch, flows: Sequence[NeighbourFlow]) -> list[Tensor]:
    """SegProp's vote as its definition reads: for each frame, trace four chains of flows anew and count votes."""
    (a, label_a), (b, label_b) = sorted(batch.labels.items())
    height, width = label_a.shape
    results = []
    for j in range(a + 1, b):
        before, behind = flows[a:j], flows[j:b]
        to_a = traced([f.flow_bw for f in reversed(before)])
        from_a = traced([f.flow_fw for f in before])
        to_b = traced([f.flow_fw for f in behind])
        from_b = traced([f.flow_bw for f in reversed(behind)])
        votes = torch.zeros(CLASSES, height, width)
        earlier, later = source_weights((j - a) / (b - a))
        for label, read, push, weight in ((label_a, to_a, from_a, earlier), (label_b, to_b, from_b, later)):
            x, y = ((read[0] + 0.5).floor().long()).unbind(-1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            said = label[y.clamp(0, height - 1), x.clamp(0, width - 1)]
            for c in range(CLASSES):
                votes[c] += weight / 2 * ((said == c) & inside)
            x, y = ((push[0] + 0.5).floor().long()).unbind(-1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (label != IGNORE_INDEX)
            landed = torch.full((height, width), -1, dtype=torch.long)
            for c in range(CLASSES):
                mine = inside & (label == c)
                landed[y[mine], x[mine]] = c
            for c in range(CLASSES):
                votes[c] += weight / 2 * (landed == c)
        most, chosen = votes.max(0)
        results.append(chosen.to(torch.uint8).masked_fill(most == 0, IGNORE_INDEX))
    return results


def our_vote(batch: ClipBatch, flow: FlowCache) -> list[Tensor]:
    results = []
    for _, labels, weights in vote_sources(batch, flow):
        if labels is not None:
            masked = weights.view(-1, 1, 1) * (labels != IGNORE_INDEX)
            results.append(elect(labels, masked)[0])
    return results


def our_fusion(batch: ClipBatch, flow: FlowCache) -> list[Tensor]:
    evidence = [e for _, e in walk_interval(batch, flow) if e is not None]
    return [decide_frame(blend(e, anchor_weights(e), CLASSES))[0] for e in evidence]


def voting(make: Callable[[int, tuple[int, int]], ClipBatch]) -> str:
    """Voting and two-anchor fusion with flows given, against a straightforward vote."""
    rows = []
    for name, size in SIZES.items():
        for every in (10, 25, 50) if size[0] < 500 else (10, 25):
            batch = make(every + 1, size)
            flows = [
                NeighbourFlow(*vars(f).values()) for f in FlowCache(DIS("medium", 1)).neighbours(batch, range(every))
            ]
            given: FlowCache = Given(flows)  # type: ignore[assignment]
            found: dict[str, list[Tensor]] = {}
            works = {"plain": straightforward_vote, "vote": our_vote, "fusion": our_fusion}
            sources = {"plain": flows, "vote": given, "fusion": given}

            def work(key: str, batch: ClipBatch = batch, found: dict = found) -> Callable[[], None]:
                return lambda: found.update({key: works[key](batch, sources[key])})  # noqa: B023, run in this round

            plain, vote, fusion = least(2 if every == 10 else 1, *(work(key) for key in works))
            same = torch.stack([(x == y).float().mean() for x, y in zip(found["plain"], found["vote"], strict=True)])
            frames = every - 1
            ms = [f"{1e3 * seconds / frames:.1f}" for seconds in (plain, vote, fusion)]
            rows.append(
                [name, str(every), *ms, f"{plain / vote:.1f}", f"{plain / fusion:.1f}", f"{100 * same.mean():.2f} %"]
            )
    header = ["frames", "K", "plain vote, ms a frame", "vote, ms", "fusion, ms", "vote ×", "fusion ×", "equal pixels"]
    return markdown_table(header, rows)


# ------------------------------------------------------------------------------------------------------------- memory


def peak_of(count: int, size: tuple[int, int], method: str) -> float:
    """Peak memory in MB of propagating a generated interval whose frames are made one by one, in a fresh process."""
    command = [sys.executable, __file__, "--peak", str(count), str(size[0]), str(size[1]), method]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


class Rolling:
    """Frames made when they are asked for: a texture that slides."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.count = count
        noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)
        self.texture = cv2.GaussianBlur(noise, (0, 0), 3) * 6 % 256

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.roll(self.texture, index, 1).astype(np.uint8)).permute(2, 0, 1).contiguous()


def print_peak(count: int, height: int, width: int, method: str) -> None:
    num_classes = CITYSCAPES if method == "refine" else CLASSES
    label = torch.from_numpy((np.indices((height, width)).sum(0) // 40 % num_classes).astype(np.uint8))
    frames = Rolling(count, height, width)
    stems = [f"{i:05d}" for i in range(count)]
    batch = ClipBatch("rolling", stems, 0, frames, {0: label, count - 1: label}, (0, count))  # type: ignore[arg-type]
    teacher = refiner = None
    if method == "refine":  # untrained networks take the same memory
        defaults = Settings(root="clips", out="labels")
        network = (defaults.architecture, defaults.encoder, None, defaults.teacher_scale, defaults.teacher_options)
        teacher = SegmentationModule(num_classes, *network).eval()
        refiner = RefinementModule(num_classes, teacher).eval()
    # The preset of the flow has no part in how memory grows.
    module = PropagationModule(num_classes, [method], teacher, refiner, DIS("ultrafast", 1))
    for _ in module.propagate(batch):
        pass
    # Not ru_maxrss: a child begins with that of its parent.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(json.dumps(int(status.split("VmHWM:")[1].split()[0]) / 1024))


def memory() -> str:
    """Peak memory by the length of an interval, of motion alone and with all networks."""
    tables = [
        memory_by_length(SIZES, (50, 200, 800), "motion"),
        memory_by_length(LARGE, (50, 100, 200), "motion"),
        memory_by_length(LARGE, (5, 10, 20), "refine"),
    ]
    return "\n\n".join(tables)


def memory_by_length(sizes: dict[str, tuple[int, int]], counts: Sequence[int], method: str) -> str:
    rows = []
    for name, size in sizes.items():
        peaks = [peak_of(count, size, method) for count in counts]
        slope = 1024 * (peaks[-1] - peaks[0]) / (counts[-1] - counts[0])
        cells = [f"{slope:.0f}", f"{3 * size[0] * size[1] / 1024:.0f}"]
        rows.append([f"{method}, {name}", *(f"{peak:.0f}" for peak in peaks), *cells])
    header = ["", *(f"{count} frames, MB" for count in counts), "slope, kB a frame", "one frame itself, kB"]
    return markdown_table(header, rows)


# ------------------------------------------------------------------------------------------------------ composed flow


def composed(root: str) -> str:
    """Composed flow against sampling the label anew at every step: mIoU by distance, all start frames of the clip."""
    index = open_index(root)
    batch = WindowItems(select_clips(index, None, 1, 0).clips, index.label_map, radius=10**6)[0]
    cache, rows = FlowCache(DIS("medium", 1)), []
    for distance in (5, 10, 20):
        counts = torch.zeros(3, index.label_map.num_classes, index.label_map.num_classes + 1, dtype=torch.long)
        for anchor in range(0, len(batch.frames) - distance, 2):
            label = batch.labels[anchor]
            chain, stepwise = start_chain(label), label[None]
            for neighbour in cache.neighbours(batch, range(anchor, anchor + distance)):
                chain = extend_near(chain, neighbour.flow_bw, neighbour.flow_fw)
                stepwise = warp_labels(stepwise, neighbour.flow_bw)
            truth = batch.labels[anchor + distance]
            for row, labels in enumerate((label, stepwise[0], warp_labels(label[None], chain.flow)[0])):
                counts[row] += confusion(labels, truth, index.label_map.num_classes)
        rows.append([str(distance), *(f"{100 * mean_iou(matrix):.1f}" for matrix in counts)])
    return markdown_table(["distance", "copied", "step by step", "composed"], rows)


# --------------------------------------------------------------------------------------------------------- primitives


def gathered(values: Tensor, coords: Tensor) -> Tensor:
    """Bilinear samples by four gathers of rows of channels."""
    _, channels, _height, width = values.shape
    rows = values[0].reshape(channels, -1).t().contiguous()
    x, y = coords[0]
    left, top = x.floor(), y.floor()
    right_share, bottom_share = (x - left).view(-1, 1), (y - top).view(-1, 1)
    base = (top * width + left).long().view(-1).clamp(max=len(rows) - width - 2)
    upper = torch.lerp(rows.index_select(0, base), rows.index_select(0, base + 1), right_share)
    lower = torch.lerp(rows.index_select(0, base + width), rows.index_select(0, base + width + 1), right_share)
    return torch.lerp(upper, lower, bottom_share).t().reshape(1, channels, *x.shape)


def primitives() -> str:
    """Bilinear samples of two, three and four channels by each route, in milliseconds."""
    rows = []
    for name, (height, width) in SIZES.items():
        coarse = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0)) * 5
        coords, _ = coordinates(functional.interpolate(coarse, (height, width), mode="bicubic"))
        for channels in (2, 3, 4):
            values = torch.randn(1, channels, height, width)
            grid = coords.permute(0, 2, 3, 1) * torch.tensor([2 / (width - 1), 2 / (height - 1)]) - 1
            torch_route = lambda v=values, g=grid: functional.grid_sample(v, g, align_corners=True)  # noqa: E731
            routes = (torch_route, lambda v=values: gathered(v, coords), lambda v=values: sample(v, coords))  # noqa: B023
            times = least(7, *routes)
            rows.append([name, str(channels), *(f"{1e3 * seconds:.2f}" for seconds in times)])
    return markdown_table(["frames", "channels", "grid_sample", "four gathers", "sample() (cv2.remap)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="data set of a real clip, looked for below WRP_DATA as well")
    parser.add_argument("--only", choices=("propagation", "vote", "memory", "composed", "primitives"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if options.peak:
        *numbers, method = options.peak
        print_peak(*map(int, numbers), method)
        return

    def make(count: int, size: tuple[int, int]) -> ClipBatch:
        return real_interval(options.root, count, size) if options.root else interval(*size, count)

    tables: dict[str, Callable[[], str]] = {
        "primitives": primitives,
        "propagation": lambda: propagation(make),
        "vote": lambda: voting(make),
        "memory": memory,
    }
    if options.root:
        tables["composed"] = lambda: composed(options.root)
    for name, table in tables.items():
        if options.only in (None, name):
            print(
                f"\n{name} ({options.threads} threads, {Path(options.root or 'generated').name})\n\n{table()}",
                flush=True,
            )


if __name__ == "__main__":
    main()
