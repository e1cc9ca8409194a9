"""Find out where refined labels lose against the better of motion and teacher, and screen refiners quickly.

`prepare` keeps the warped labels of hidden frames and the cycles of keyframes, which cost the most time, so that one
refiner after the other can be trained and scored in minutes: each is trained like the package's, and frames around a
frame have no vote. `gap` shows where the best of motion and teacher, pixel by pixel, is better than motion. `train`
appends a result to a file; what the file holds already is not made again.

    python experiments/refinement/weighing.py prepare camvid --every 50 --only-every 2
    python experiments/refinement/weighing.py gap camvid --every 50 --teacher T.ckpt
    python experiments/refinement/weighing.py train camvid --every 50 --teacher T.ckpt --rows "half resolution" gate
    python experiments/refinement/weighing.py table
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional

from wrp import CycleExamples, PropagationModule
from wrp.data.index import select_clips
from wrp.data.items import IntervalItems, WindowItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.consistency import to_unit
from wrp.geometry.fusion import WarpedLabels, blend, blend_weights, motion_error
from wrp.geometry.labels import argmax_frame
from wrp.io.checkpoints import load_module, network_hash
from wrp.io.tables import markdown_table
from wrp.metrics.segmentation import confusion, mean_iou
from wrp.options import CycleArgs, InferenceArgs, SelectArgs
from wrp.refinement.module import teacher_probabilities
from wrp.refinement.network import CUES, INPAINT_ODDS, SMOOTHING, Refiner, refined, refiner_input, stack_inputs
from wrp.refinement.store import CycleRecord
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.module import SegmentationModule
from wrp.structures import IGNORE_INDEX, RefinerInput

sys.path.append(str(Path(__file__).parents[1]))
from results import Results, mean_and_spread

RESULTS = Results(Path(__file__).with_name("weighing.jsonl"))
BINS = (1, 3, 6, 12, 25, 50)  # distances to a keyframe in frames, and to a border in pixels, from which on they count


def log_smoothed(probs: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Logarithm of probabilities (B, C, H, W) of which a part is spread over all classes."""
    probs = probs / probs.sum(1, keepdim=True).clamp(min=1e-6)
    return ((1 - smoothing) * probs + smoothing / probs.shape[1]).log()


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU())


def nothing(inputs: int, outputs: int) -> nn.Conv2d:
    head = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(head.weight)
    assert head.bias is not None
    nn.init.zeros_(head.bias)
    return head


class FullResolution(Refiner):
    """The refiner of wrp 0.1, whose U-Net begins at full resolution."""

    def __init__(self, num_classes: int, channels: tuple[int, ...] = (16, 32, 48, 64, 96)) -> None:
        super().__init__(num_classes, channels)
        self.stem = convolution(3 + 2 * num_classes + CUES, channels[0])
        self.head = nothing(channels[0], 1 + num_classes)

    def residual(self, inputs: RefinerInput) -> Tensor:
        features = [self.stem(torch.cat([inputs.image - 0.5, inputs.prior, inputs.teacher_probs, inputs.cues], 1))]
        for down in self.down:
            features.append(down(features[-1]))
        merged = features.pop()
        for up in reversed(self.up):
            finer = features.pop()
            merged = up(torch.cat((functional.interpolate(merged, finer.shape[2:], mode="bilinear"), finer), 1))
        found: Tensor = self.head(merged)
        return found


class Gate(Refiner):
    """Weights of motion and teacher alone: no logits are added."""

    def residual(self, inputs: RefinerInput) -> Tensor:
        correction = super().residual(inputs)[:, :1]
        return torch.cat((correction, torch.zeros_like(inputs.prior)), 1)


class Powers(Refiner):
    """A product of motion and teacher to powers that the network gives, and logits that are added."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nothing(self.head.in_channels, 2 + num_classes)

    def forward(self, inputs: RefinerInput) -> Tensor:
        found, error = self.residual(inputs), inputs.cues[:, :1]
        of_motion = 1.2 * torch.sigmoid(found[:, :1] + 1.5 - 3 * error)
        of_teacher = 1.5 * torch.sigmoid(found[:, 1:2] - 1.5 + 3 * error)
        product = of_motion * log_smoothed(inputs.motion) + of_teacher * log_smoothed(inputs.teacher_probs, 0.01)
        return product + found[:, 2:]


class SinglePixels(nn.Module):
    """What motion, teacher and cues say at a pixel, weighed without the image and without other pixels."""

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(4 * num_classes + CUES, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()
        )
        self.head = nothing(width, 1 + num_classes)

    def forward(self, inputs: RefinerInput) -> Tensor:
        motion, teacher = inputs.motion, inputs.teacher_probs
        logarithms = log_smoothed(motion) / 3, log_smoothed(teacher, 0.01) / 3
        found = self.head(self.features(torch.cat((motion, teacher, *logarithms, inputs.cues), 1)))
        mask = torch.sigmoid(found[:, :1] + INPAINT_ODDS * (2 * inputs.cues[:, :1] - 1))
        return log_smoothed((1 - mask) * motion + mask * teacher) + found[:, 1:]


ROWS: dict[str, Callable[[int], nn.Module]] = {
    "full resolution (0.1)": FullResolution,
    "half resolution (default)": Refiner,
    "gate": Gate,
    "powers": Powers,
    "single pixels": SinglePixels,
}


@dataclass
class Prepared:
    """Hidden frames and keyframes of a setting, with the probabilities of a teacher."""

    hidden: list[dict[str, Any]]
    records: list[CycleRecord]
    num_classes: int
    every: int
    names: tuple[str, ...]

    @cached_property
    def truths(self) -> list[Tensor]:
        return [frame["truth"] for frame in self.hidden]

    def inputs(self, frame: dict[str, Any]) -> RefinerInput:
        return refiner_input(to_unit(frame["image"]), frame["warped"], frame["teacher"].float())

    def miou(self, labels: Sequence[Tensor]) -> float:
        matrix = sum(
            confusion(found, truth, self.num_classes) for found, truth in zip(labels, self.truths, strict=True)
        )
        assert isinstance(matrix, Tensor)
        return round(100 * mean_iou(matrix).item(), 2)


def place(options: argparse.Namespace) -> Path:
    return options.cache / f"{options.root.replace('/', '-')}-{options.every}.pt"


def prepare(options: argparse.Namespace) -> None:
    """Keep the warped labels of every N-th hidden frame, and the cycles of all keyframes."""
    index = select_clips(open_index(options.root), SelectArgs(label_every=options.every))
    num_classes, flow = index.label_map.num_classes, FlowCache(DIS(), str(options.cache / "flow"))
    module = PropagationModule(num_classes, ["motion"], flow=flow)
    hidden = []
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    with torch.inference_mode():
        for number in range(len(items)):
            batch = items[number]
            wanted = {
                i: label for i, label in batch.held_out.items() if i % options.only_every == 1 % options.only_every
            }
            for frame in module.session(batch, only=wanted).frames():
                known = frame.known
                if known is not None and known.index in wanted and known.warped is not None:
                    warped = {name: value.clone() for name, value in vars(known.warped).items()}
                    hidden.append(
                        {"image": known.image.clone(), "truth": wanted[known.index].clone(), "warped": warped}
                    )
    examples, windows = CycleExamples(flow=flow), WindowItems(index.clips, index.label_map)
    records = [asdict(examples.record(windows[number], num_classes)) for number in range(len(windows))]
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.save({"hidden": hidden, "records": records, "names": list(index.label_map.names)}, place(options))


def load(options: argparse.Namespace) -> Prepared:
    """Read what `prepare` has kept, and add what the teacher says."""
    kept = torch.load(place(options), weights_only=True, mmap=True)
    teacher = load_module(SegmentationModule, options.teacher, inference=InferenceArgs(scales=options.scales)).eval()
    num_classes = len(kept["names"])

    def says(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return teacher_probabilities(teacher, image, num_classes).half().clone()

    for frame in kept["hidden"]:
        frame["warped"], frame["teacher"] = WarpedLabels(**frame["warped"]), says(frame["image"])
    records = []
    for state in kept["records"]:
        for kind in ("cycles", "pairs"):
            state[kind] = {offset: WarpedLabels(**warped) for offset, warped in state[kind].items()}
        records.append(replace(CycleRecord(**state), teacher_probs=says(state["image"])))
    return Prepared(kept["hidden"], records, num_classes, options.every, tuple(kept["names"]))


def gap(options: argparse.Namespace) -> None:
    """Show where the best of motion and teacher, pixel by pixel, is right and motion is wrong."""
    data = load(options)
    labels: dict[str, list[Tensor]] = defaultdict(list)
    parts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for frame in data.hidden:
        warped, truth = frame["warped"], frame["truth"]
        motion = argmax_frame(blend(warped, blend_weights(warped), data.num_classes))[0]
        teacher = argmax_frame(frame["teacher"].float())[0]
        right = motion == truth, teacher == truth
        known = truth != IGNORE_INDEX
        labels["motion"].append(motion)
        labels["teacher"].append(teacher)
        labels["the best of both"].append(torch.where(right[1] & known, teacher, motion))
        near = int(warped.distance.min())
        borders = (truth[1:] != truth[:-1]).float()
        edge = functional.pad(borders, (0, 0, 0, 1)).bool()
        edge[:, :-1] |= truth[:, 1:] != truth[:, :-1]
        border = torch.from_numpy(distance_transform_edt(~edge.numpy()))
        error = motion_error(warped)
        kinds = [("class", data.names[i], truth == i) for i in range(data.num_classes)]
        kinds += [("distance", f"from {max(b for b in BINS if b <= max(1, near))} frames", torch.ones_like(known))]
        kinds += [("flow", "in error" if at else "consistent", error == at) for at in (False, True)]
        for low, high in zip(BINS, (*BINS[1:], 10**6), strict=True):
            kinds.append(("border", f"from {low} pixels", (border.clamp(min=1) >= low) & (border.clamp(min=1) < high)))
        for kind, name, where in kinds:
            cell = where & known
            for number, count in enumerate((cell, cell & ~right[0], cell & ~right[0] & right[1])):
                parts[kind, name][number] += int(count.sum())
    print(" · ".join(f"{name} {data.miou(found):.2f}" for name, found in labels.items()), end="\n\n")
    total = sum(wrong for (kind, _), (_, wrong, _) in parts.items() if kind == "flow")
    cells = [
        [
            kind,
            name,
            f"{100 * wrong / max(1, pixels):.1f}",
            f"{100 * wrong / total:.1f}",
            f"{100 * could / max(1, wrong):.0f}",
        ]
        for (kind, name), (pixels, wrong, could) in parts.items()
    ]
    header = ["by", "", "motion is wrong, %", "part of all its errors, %", "of them the teacher is right, %"]
    print(markdown_table(header, cells))


def train(row: str, seed: int, data: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """Train a row like the package's refiner, and score it."""
    torch.manual_seed(seed)
    random.seed(seed)
    examples = CycleExamples(cycles=CycleArgs(interval=data.every, pair_ratio=options.pair_ratio))
    net, loss = ROWS[row](data.num_classes), SegmentationLoss(cross_entropy={"balance": 0.5})
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, options.steps, 0.9)
    for _ in range(options.steps):
        drawn = [examples.draw(examples.cut(random.choice(data.records))) for _ in range(6)]
        logits = net(stack_inputs([inputs for inputs, _ in drawn]))
        optimizer.zero_grad()
        loss(logits, torch.stack([truth for _, truth in drawn])).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    labels: dict[str, list[Tensor]] = defaultdict(list)
    with torch.inference_mode():
        for frame in data.hidden:
            inputs = data.inputs(frame)
            answer = net(stack_inputs([inputs, inputs.flip()])).softmax(1)
            probs = {"motion": inputs.motion, "semantic": inputs.teacher_probs, "inpaint": inputs.prior}
            probs |= {"answer": answer[:1] + answer[1:].flip(-1), "refine": refined(net, inputs)}
            for name, of in probs.items():
                labels[name].append(argmax_frame(of[0].float())[0])
    return {name: data.miou(found) for name, found in labels.items()}


def table() -> str:
    """Format mean and standard deviation over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for result in RESULTS:
        groups[
            tuple(result[key] for key in ("root", "every", "teacher", "scales", "steps", "pair_ratio", "row"))
        ].append(result)
    rows = []
    for (root, every, teacher, scales, steps, pairs, row), found in groups.items():
        spread = [mean_and_spread([one[name] for one in found]) for name in ("answer", "refine")]
        given = [f"{found[0][name]:.2f}" for name in ("motion", "semantic", "inpaint")]
        rows.append(
            [row, root, str(every), teacher[:4], scales, str(steps), str(pairs), str(len(found)), *given, *spread]
        )
    header = ["", "data", "K", "teacher", "its scales", "steps", "pairs", "seeds", "motion", "semantic", "inpaint"]
    return markdown_table([*header, "answer", "refine without votes"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["prepare", "gap", "train", "table"])
    parser.add_argument("root", nargs="?", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, default=50, help="every K-th label is a keyframe")
    parser.add_argument("--only-every", type=int, default=1, help="keep every N-th hidden frame only")
    parser.add_argument("--teacher", help="checkpoint")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5], help="at which the teacher sees images")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pair-ratio", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/weighing"), help="folder for what is prepared")
    options = parser.parse_args()
    if options.verb != "table" and options.root is None:
        parser.error("a data set is needed")
    if options.verb in ("gap", "train") and options.teacher is None:
        parser.error("--teacher is needed")
    if options.verb == "prepare":
        prepare(options)
    elif options.verb == "gap":
        gap(options)
    elif options.verb == "train":
        data = load(options)
        for seed in options.seeds:
            for row in options.rows:
                key = {"root": options.root, "every": options.every, "teacher": network_hash(options.teacher)}
                key |= {"scales": " ".join(map(str, options.scales)), "steps": options.steps}
                key |= {"pair_ratio": options.pair_ratio, "row": row, "seed": seed}
                RESULTS.once(key, partial(train, row, seed, data, options))
    if options.verb in ("train", "table"):
        print(table())


if __name__ == "__main__":
    main()
