"""Compare ways to train a segmentation network in the same time: encoder and its weights, decoder, resolution, rates.

A row is trained on the labelled frames of a setting and scored on frames that it has not seen: the other frames of the
clip (camvid and others), or those of a whole drive (drives: CamVid's 1 Hz frames of 0001TP and 0016E5 for training,
0006R0 for the score). Steps are chosen so that rows take about the same time; the seconds of the process are measured.
Results are appended to a file as they come. What the file holds already is not made again.

    python experiments/networks/recipes.py camvid --every 50
    python experiments/networks/recipes.py drives --rows scratch "FPN at 1" --seeds 0 1 2
    python experiments/networks/recipes.py domains/vocalfolds --every 6
    python experiments/networks/recipes.py --table
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp import SegmentationData
from wrp.data.layouts.registry import open_index
from wrp.io.checkpoints import load_module
from wrp.io.tables import markdown_table
from wrp.options import InferenceArgs, NetworkArgs, OptimizerArgs, SamplingArgs, SelectArgs, ValArgs
from wrp.runs.config import SLIM_FPN
from wrp.runs.trainer import quiet_lightning
from wrp.runs.training import fit
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.module import SegmentationModule

sys.path.append(str(Path(__file__).parents[1]))
from results import Results, mean_and_spread

RESULTS = Results(Path(__file__).with_name("recipes.jsonl"))
HELD_OUT_DRIVE = "0006R0"

LITE = "tu-tf_efficientnet_lite0"
SLIM_UNET = {"decoder_channels": [128, 64, 48, 32, 16]}
SLIMMER_UNET = {"decoder_channels": [96, 48, 32, 16, 8]}
BALANCED = {"balance": 0.5}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are those of a teacher with pretrained weights."""

    network: NetworkArgs = field(
        default_factory=lambda: NetworkArgs("FPN", LITE, "imagenet", dict(SLIM_FPN), scale=0.5)
    )
    optimizer: OptimizerArgs = field(default_factory=lambda: OptimizerArgs(lr=1e-3))
    sampling: SamplingArgs = field(default_factory=lambda: SamplingArgs((256, 448), 8))
    steps: int = 1200
    cross_entropy: dict[str, Any] = field(default_factory=dict)


PLAIN = Recipe()
AT_075 = replace(PLAIN, network=replace(PLAIN.network, scale=0.75), sampling=SamplingArgs((192, 320), 8), steps=930)
AT_1 = replace(PLAIN, network=replace(PLAIN.network, scale=1.0), sampling=SamplingArgs((192, 256), 8), steps=780)
RECIPES: dict[str, Recipe] = {
    "scratch": Recipe(
        NetworkArgs("FPN", "tu-regnetx_002", None, dict(SLIM_FPN), scale=0.5), OptimizerArgs(lr=5e-3), steps=2000
    ),
    "scratch at 0.75": Recipe(
        NetworkArgs("FPN", "tu-regnetx_002", None, dict(SLIM_FPN), scale=0.75),
        OptimizerArgs(lr=5e-3),
        SamplingArgs((192, 320), 8),
        steps=1600,
    ),
    "FPN at 0.5": PLAIN,
    "FPN at 0.75": AT_075,
    "FPN at 0.75, balanced": replace(AT_075, cross_entropy=BALANCED),
    "FPN at 0.75, rare classes": replace(AT_075, sampling=SamplingArgs((192, 320), 8, class_uniform=0.5)),
    "FPN at 0.75, lr 0.002": replace(AT_075, optimizer=OptimizerArgs(lr=2e-3)),
    "FPN at 0.75, lr 0.004": replace(AT_075, optimizer=OptimizerArgs(lr=4e-3)),
    "FPN at 0.75, batch 4": replace(AT_075, sampling=SamplingArgs((192, 320), 4), steps=1860),
    "FPN at 0.75, twice the steps": replace(AT_075, steps=1860),
    "FPN at 1": AT_1,
    "FPN at 1, lr 0.002": replace(AT_1, optimizer=OptimizerArgs(lr=2e-3)),
    "FPN at 1, lr 0.0005": replace(AT_1, optimizer=OptimizerArgs(lr=5e-4)),
    "FPN at 1, encoder 0.3": replace(AT_1, optimizer=OptimizerArgs(lr=2e-3, encoder_lr=0.3)),
    "FPN at 1, rare classes": replace(AT_1, sampling=SamplingArgs((192, 256), 8, class_uniform=0.5)),
    "FPN at 1, balanced": replace(AT_1, cross_entropy=BALANCED),
    "Unet at 0.5": replace(PLAIN, network=NetworkArgs("Unet", LITE, "imagenet", dict(SLIM_UNET), 0.5), steps=830),
    "Unet at 0.5, balanced": replace(
        PLAIN, network=NetworkArgs("Unet", LITE, "imagenet", dict(SLIM_UNET), 0.5), steps=830, cross_entropy=BALANCED
    ),
    "Unet at 0.75": replace(AT_075, network=NetworkArgs("Unet", LITE, "imagenet", dict(SLIMMER_UNET), 0.75), steps=750),
    "Unet at 1": replace(AT_1, network=NetworkArgs("Unet", LITE, "imagenet", dict(SLIM_UNET)), steps=500),
}


def data_of(options: argparse.Namespace, sampling: SamplingArgs) -> SegmentationData:
    """Open the frames of a setting, those for the score held out."""
    if options.root == "drives":
        clips = [clip.name for clip in open_index("camvid", split="train").clips]
        held_out = [name for name in clips if name.startswith(HELD_OUT_DRIVE)]
        return SegmentationData(root="camvid", split="train", val=ValArgs(clips=held_out), sampling=sampling)
    return SegmentationData(root=options.root, select=SelectArgs(label_every=options.every), sampling=sampling)


def run(row: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a row and score it, also with the mirror image averaged in."""
    recipe = RECIPES[row]
    steps = max(1, round(recipe.steps * options.time))
    batch = recipe.sampling.batch_size
    data = data_of(options, replace(recipe.sampling, epoch_length=steps * batch, seed=seed))
    pl.seed_everything(seed, verbose=False)
    loss = SegmentationLoss({"cross_entropy": 1.0, "dice": 1.0}, cross_entropy=recipe.cross_entropy)
    module = SegmentationModule(data.label_map.num_classes, recipe.network, recipe.optimizer, loss=loss)
    place = f"{options.root}-{options.every}-{options.time}-{row}-{seed}"
    path = options.networks / f"{place.replace('/', '-').replace(' ', '-').replace(',', '')}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    if not path.is_file():
        fit(module, data, steps, path)
    seconds = time.process_time() - started
    scores: dict[str, Any] = {"seconds": round(seconds), "steps": steps}
    for name, inference in (("miou", InferenceArgs()), ("flipped", InferenceArgs(flip=True))):
        trained = load_module(SegmentationModule, path, inference=inference)
        with quiet_lightning():
            trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
            [found] = trainer.test(trained, data, verbose=False)
        scores[name] = round(found["test/miou"], 2)
        if name == "miou":
            scores["classes"] = {
                key.removeprefix("test/iou_"): round(value, 1)
                for key, value in found.items()
                if key.startswith("test/iou_")
            }
    return scores


def table() -> str:
    """Format mean and standard deviation over the seeds, with the classes that are thin or rare."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for result in RESULTS:
        groups[result["root"], result["every"], result["time"], result["row"]].append(result)
    rows = []
    for (root, every, times, row), found in sorted(groups.items(), key=lambda item: str(item[0][:3])):
        worst = sorted(found[0]["classes"], key=lambda name: found[0]["classes"][name])[:4]
        thin = ", ".join(f"{name} {sum(r['classes'][name] for r in found) / len(found):.0f}" for name in worst)
        spreads = [mean_and_spread([result[name] for result in found]) for name in ("miou", "flipped")]
        seconds = sum(result["seconds"] for result in found) / len(found)
        rows.append([row, root, str(every), str(times), str(len(found)), f"{seconds:.0f}", *spreads, thin])
    header = ["", "data", "K", "time", "seeds", "CPU seconds", "mIoU", "with mirror image", "lowest IoU"]
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="drives, or a data set, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, default=50, help="train on every K-th label")
    parser.add_argument("--rows", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--time", type=float, default=1.0, help="factor on the steps of all rows")
    parser.add_argument("--networks", type=Path, default=Path("runs/recipes"), help="folder for trained networks")
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    options = parser.parse_args()
    if not options.table:
        if options.root is None:
            parser.error("give drives or a data set")
        if options.root == "drives":
            options.every = 1
        for seed in options.seeds:
            for row in options.rows:
                key = {"root": options.root, "every": options.every, "time": options.time, "row": row, "seed": seed}
                RESULTS.once(key, partial(run, row, seed, options))
    print(table())


if __name__ == "__main__":
    main()
