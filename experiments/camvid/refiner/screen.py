"""Screen the choices of the refiner's training, one at a time, with one teacher for all rows.

Each row is trained on the labelled frames of a clip, at half its resolution, and scored on its held-out frames. Results
are appended to a file as they come. What the file already holds is not made again, so the same command continues where
it stopped. The best rows are confirmed at full resolution, and with keyframes nearer to one another.

    python experiments/camvid/refiner/screen.py camvid --teacher runs/camvid-25/teacher.ckpt
    python experiments/camvid/refiner/screen.py camvid --teacher runs/camvid-25/teacher.ckpt --rows defaults --seed 1
    python experiments/camvid/refiner/screen.py camvid --teacher runs/camvid-50-0/teacher.ckpt --scale 1 --steps 1200 \
        --every 50 --score-every 10 25 50 --rows defaults "displaced by 1 px"
    python experiments/camvid/refiner/screen.py --table
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from PIL import Image
from tqdm import tqdm

from wrp import CycleExamples, PropagationModule, RefinementData, RefinementModule, SegmentationModule
from wrp.data.index import ClipIndex, select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.errors import WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.labels import resize_labels
from wrp.io.checkpoints import load_module, network_hash
from wrp.io.images import read_image, read_label
from wrp.io.label_map import write_label_map
from wrp.io.tables import markdown_table
from wrp.io.writing import new_folder, write_image, write_label
from wrp.options import CycleArgs, KeepArgs, OptimizerArgs, RefinerArgs, SelectArgs
from wrp.runs.training import fit
from wrp.segmentation.losses import SegmentationLoss

sys.path.append(str(Path(__file__).parents[2]))
from results import Results, mean_and_spread

RESULTS = Results(Path(__file__).with_name("results.jsonl"))
CACHE = Path("~/.cache/wrp/smaller")
METHODS = ["motion", "semantic", "inpaint", "refine"]


@dataclass(frozen=True)
class Row:
    """The settings of a row that differ from the defaults.

    Attributes:
        cycles: How examples are drawn.
        network: Arguments of the network, see :class:`~wrp.options.RefinerArgs`.
        encoder: Whether the network gets features of the image from the teacher's encoder.
        optimizer: Optimizer settings; None: the default of RefinementModule.
        loss: Arguments of :class:`~wrp.segmentation.losses.SegmentationLoss`; None: the default of RefinementModule.
        teacher: Whether there is a teacher.
        generated: Steps of pre-training on generated clips.
    """

    cycles: CycleArgs = CycleArgs()
    network: dict[str, Any] = field(default_factory=dict)
    encoder: bool = False
    optimizer: OptimizerArgs | None = None
    loss: dict[str, Any] | None = None
    teacher: bool = True
    generated: int = 0


BALANCED = {"balance": 0.5}
ROWS: dict[str, Row] = {
    "defaults": Row(),
    "no colour jitter": Row(CycleArgs(jitter=0.0)),
    "colour jitter 0.6": Row(CycleArgs(jitter=0.6)),
    "plain cross-entropy": Row(loss={"cross_entropy": {"balance": 0.0}}),
    "borders count three times": Row(loss={"cross_entropy": {**BALANCED, "boundary": 2.0}}),
    "cross-entropy and Dice": Row(loss={"weights": {"cross_entropy": 1.0, "dice": 1.0}, "cross_entropy": BALANCED}),
    "cycles alone": Row(CycleArgs(pair_ratio=0.0)),
    "keyframe pairs wherever possible": Row(CycleArgs(pair_ratio=1.0)),
    "displaced by 1 px": Row(CycleArgs(displacement=1.0)),
    "displaced by 3 px": Row(CycleArgs(displacement=3.0)),
    "learning rate 0.002": Row(optimizer=OptimizerArgs(lr=0.002)),
    "twice the width": Row(network={"channels": (32, 64, 96, 128, 192)}),
    "no teacher": Row(teacher=False),
    "FPN on the teacher's encoder": Row(network={"decoder": "FPN"}, encoder=True),
    "FPN on the teacher's encoder, which learns": Row(
        network={"decoder": "FPN", "freeze_encoder": False}, encoder=True
    ),
    "Unet on the teacher's encoder": Row(network={"decoder": "Unet"}, encoder=True),
    "cycles back along the flow they came": Row(CycleArgs(crossed=False)),
    "cross-entropy and RMI": Row(loss={"weights": {"cross_entropy": 1.0, "rmi": 0.1}, "cross_entropy": BALANCED}),
    "from 1000 steps on generated clips": Row(generated=1000),
}


class NoTeacher(torch.nn.Module):
    """A teacher that knows no class: its probabilities are zero, as in training without a teacher."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def probabilities(self, frames: torch.Tensor) -> torch.Tensor:
        """Zeros, (B, C, H, W)."""
        return torch.zeros(len(frames), self.num_classes, *frames.shape[2:])


def index_of(options: argparse.Namespace, every: int) -> ClipIndex:
    """Open the clips, with the labels of every K-th frame as keyframes."""
    root = options.root if options.scale == 1 else str(smaller(options.root, options.scale))
    return select_clips(open_index(root), SelectArgs(label_every=every, label_offset=options.offset))


def train(row: str, options: argparse.Namespace) -> Path:
    """Train one row, unless its network exists already."""
    name = hashlib.sha256(f"{row} {setting(options)}".encode()).hexdigest()[:16]
    path = options.networks / f"{name}.ckpt"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    index, chosen = index_of(options, options.every), ROWS[row]
    num_classes = index.label_map.num_classes
    crop = (round(192 * options.scale), round(256 * options.scale))
    net = None
    if chosen.generated:
        of_clips = path.with_stem(f"{name}-generated")
        net = pretrained(num_classes, chosen.generated, crop, options.flow_cache, of_clips)
    examples = CycleExamples(
        find_teacher(options) if chosen.teacher else None,
        flow=FlowCache(DIS(), options.flow_cache),
        cycles=chosen.cycles,
        crop_size=crop,
        keep=KeepArgs(str(options.networks / "examples")),  # shared by the rows whose cycles are made alike
    )
    data = RefinementData.over(index, examples=examples, epoch_length=options.steps, seed=options.seed)
    pl.seed_everything(options.seed + 1, verbose=False)
    encoder = {"encoder_from": options.teacher} if chosen.encoder else {}
    loss = None if chosen.loss is None else SegmentationLoss(**chosen.loss)
    module = RefinementModule(num_classes, RefinerArgs(**chosen.network, **encoder), chosen.optimizer, loss, net)
    pl.seed_everything(options.seed + 1, verbose=False)  # again, as making a network draws random numbers
    fit(module, data, options.steps, path)
    return path


def score(row: str, options: argparse.Namespace, every: int) -> dict[str, Any]:
    """Train one row and score it with every K-th label as keyframe."""
    network = train(row, options)
    index = index_of(options, every)
    num_classes = index.label_map.num_classes
    teacher = find_teacher(options) if ROWS[row].teacher else NoTeacher(num_classes)
    flow = FlowCache(DIS(), options.flow_cache)
    scorer = PropagationModule(num_classes, METHODS, teacher, str(network), flow)
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    with torch.inference_mode():
        for number in tqdm(range(len(items)), desc=f"{row}, K = {every}", unit="interval"):
            scorer.test_step(items[number], number)
    return {method: round(found["miou"], 2) for method, found in scorer.score.compute().items()}


def find_teacher(options: argparse.Namespace) -> SegmentationModule:
    """Load the teacher, with its scale set so that it sees smaller frames at the size that it was trained on."""
    network = load_module(SegmentationModule, options.teacher).network
    scale = network.scale / options.scale
    if scale > 1:
        raise WrpError(f"{options.teacher} was trained on larger frames than those of --scale {options.scale}")
    teacher: SegmentationModule = load_module(
        SegmentationModule, options.teacher, network=replace(network, encoder_weights=None, scale=scale)
    )
    return teacher


def pretrained(num_classes: int, steps: int, crop: tuple[int, int], cache: str | None, path: Path) -> torch.nn.Module:
    """Train a refiner on generated clips, without a teacher; their classes are others, but as many."""
    examples = CycleExamples(flow=FlowCache(DIS(), cache), crop_size=crop)
    data = RefinementData(num_classes, examples, select=SelectArgs(label_every=24), epoch_length=steps)
    module = RefinementModule(num_classes)
    fit(module, data, steps, path)
    return module.net


def smaller(root: str, scale: float) -> Path:
    """Write the same data at another size, in the folder layout."""
    index = open_index(root)
    place = hashlib.sha256(str(index.root.resolve()).encode()).hexdigest()[:8]
    folder = CACHE.expanduser() / f"{index.root.name}-{place}-at-{scale}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as building:
        for clip in index.clips:
            for frame in tqdm(clip.frames, desc=f"{clip.name} at {scale}", unit="frame"):
                image = read_image(frame.image).permute(1, 2, 0).numpy()
                size = (round(image.shape[0] * scale), round(image.shape[1] * scale))
                small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
                write_image(building / "frames" / clip.name / f"{frame.stem}.png", Image.fromarray(small))
                if frame.label is not None:
                    label = resize_labels(read_label(frame.label, index.label_map)[None], size)[0]
                    write_label(building / "labels" / clip.name / f"{frame.stem}.png", label.numpy(), index.label_map)
        write_label_map(index.label_map, building / "classes.yaml")
    return folder


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that identify a trained network, besides its row."""
    keys = ("root", "scale", "every", "offset", "steps", "seed")
    return {key: getattr(options, key) for key in keys} | {"teacher": network_hash(options.teacher)}


def table() -> str:
    """Format all results, the best of each setting first."""
    keys = ("scale", "every", "scored", "offset", "steps", "teacher", "seed")
    rows = sorted(RESULTS, key=lambda r: (r["root"], *(r[key] for key in keys), -r["refine"]))
    header = ["", "scale", "learned K", "K", *keys[3:], "motion", "inpaint", "refine", "refine - motion"]
    cells = [
        [
            r["row"],
            *(str(r[key][:4] if key == "teacher" else r[key]) for key in keys),
            *(f"{r[key]:.2f}" for key in ("motion", "inpaint", "refine")),
            f"{r['refine'] - r['motion']:+.2f}",
        ]
        for r in rows
    ]
    return markdown_table(header, cells)


def confirmed() -> str:
    """Format the results at full resolution: mean and standard deviation of refine over seeds and their teachers."""
    groups: dict[tuple[Any, ...], dict[str, dict[tuple[int, str], float]]] = defaultdict(lambda: defaultdict(dict))
    for r in RESULTS:
        if r["scale"] == 1:
            place = (r["root"], r["every"], r["scored"], r["offset"], r["steps"])
            groups[place][r["row"]][r["seed"], r["teacher"]] = r["refine"]
    header = ["", "data", "learned K", "K", "offset", "steps", "seeds", "refine", "above the defaults"]
    cells = []
    for place, rows in sorted(groups.items()):
        plain = rows.get("defaults", {})
        for row, scores in rows.items():
            gain = [scores[which] - plain[which] for which in scores if row != "defaults" and which in plain]
            seeds = ", ".join(str(seed) for seed, _ in sorted(scores))
            gained = mean_and_spread(gain, "+") if gain else ""
            cells.append([row, *map(str, place), seeds, mean_and_spread(list(scores.values())), gained])
    return markdown_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("--teacher", help="checkpoint of the teacher of all rows")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--scale", type=float, default=0.5, help="scale of frames, labels and crops")
    parser.add_argument("--every", type=int, default=25, help="train on every K-th label")
    parser.add_argument("--score-every", type=int, nargs="+", help="propagate every K-th label; default: --every")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow-cache", help="folder for optical flow, shared by all rows")
    parser.add_argument("--networks", type=Path, default=Path("runs/screen"), help="folder for trained networks")
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    options = parser.parse_args()
    if not options.table:
        if options.root is None or options.teacher is None:
            parser.error("a data set and --teacher are needed")
        scored = options.score_every or [options.every]
        if any(options.every % every for every in scored):
            rule = f"each must divide --every {options.every}, else learned labels count as held-out ones"
            parser.error(f"--score-every {scored}: {rule}")
        for row, every in itertools.product(options.rows, scored):
            key = {"row": row, **setting(options), "scored": every}
            RESULTS.once(key, partial(score, row, options, every))
    print(table(), confirmed(), sep="\n\n")


if __name__ == "__main__":
    main()
