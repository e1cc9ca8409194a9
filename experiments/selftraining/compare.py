"""Compare the semi-supervised systems on images of which one in eight has a label; whole drives or clips are scored.

Of CamVid's training frames, those of the drives 0001TP and 0016E5 are for training and those of 0006R0 for the score;
of 24 generated clips, 18 and 6. All systems have the same network and the same steps per training; a first stage that
several systems have in common is trained once. Results are appended to a file as they come. What the file already holds
is not made again, and a run that was stopped continues with the stage it was at.

    python experiments/selftraining/compare.py camvid --runs runs/selftraining
    python experiments/selftraining/compare.py generated --seeds 0
    python experiments/selftraining/compare.py generated --seeds 0 --systems st --plain-colours
    python experiments/selftraining/compare.py --table
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from wrp.data.layouts.registry import find_folder
from wrp.data.synthetic.folder import generate_folder
from wrp.io.tables import markdown_table
from wrp.runs.selftrain.run import selftrain
from wrp.runs.selftrain.stages import SYSTEM_NAMES, Lists, SelfTraining
from wrp.selftraining import student
from wrp.selftraining.student import StrongView

sys.path.append(str(Path(__file__).parents[1]))
from results import Results, mean_and_spread

RESULTS = Results(Path(__file__).with_name("results.jsonl"))
LABELLED_EVERY = 8

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


def write_lists(sequences: dict[str, list[str]], held_out: set[str], out: Path) -> Lists:
    """Write the three lists of images."""
    out.mkdir(parents=True, exist_ok=True)
    learned = [names for sequence, names in sequences.items() if sequence not in held_out]
    lists = {
        "labelled": [name for names in learned for name in names[::LABELLED_EVERY]],
        "unlabelled": [name for names in learned for i, name in enumerate(names) if i % LABELLED_EVERY],
        "val": [name for sequence in sorted(held_out) for name in sequences[sequence]],
    }
    paths = {which: out / f"{which}.txt" for which in lists}
    for which, path in paths.items():
        path.write_text("\n".join(lists[which]) + "\n", encoding="utf-8")
    return Lists(**{which: str(path) for which, path in paths.items()})


def run(system: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run all stages of one system."""
    data, runs = options.data, Path(options.runs) / options.data
    root, sequences = find_sequences(data, runs)
    lists = write_lists(sequences, HELD_OUT[data], runs / "lists")
    started = time.perf_counter()
    # ST++ needs checkpoints at thirds of its first training, so the others use its first stage.
    shared = runs / f"st++-{seed}" / "supervised.ckpt"
    reuses = system in ("supervised", "st", "three-stage") and shared.is_file()
    metrics = selftrain(
        SelfTraining(
            system,
            str(root),
            lists,
            out=str(runs / f"{named(system, options)}-{seed}".replace(", ", "-").replace(" ", "-")),
            layout=LAYOUT[data],
            supervised=str(shared) if reuses else None,
            steps=options.steps,
            sampling=replace(SelfTraining.sampling, crop_size=CROP[data]),
            network=replace(SelfTraining.network, scale=0.5),
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
    by_system: dict[tuple[str, int, str], dict[int, float]] = defaultdict(dict)
    for result in RESULTS:
        by_system[result["data"], result["steps"], result["system"]][result["seed"]] = result["miou"]
    rows = []
    for (data, steps, system), scores in by_system.items():
        alone = by_system.get((data, steps, "supervised"), {})
        gains = [score - alone[seed] for seed, score in scores.items() if seed in alone]
        gain = mean_and_spread(gains, "+") if gains and system != "supervised" else ""
        rows.append([system, data, str(steps), mean_and_spread(list(scores.values())), gain, str(len(scores))])
    return markdown_table(["system", "data", "steps", "mIoU", "gain", "seeds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=list(HELD_OUT))
    parser.add_argument("--runs", default="runs/selftraining", help="folder for networks and pseudo-labels")
    parser.add_argument("--systems", nargs="+", default=["st++", *(s for s in SYSTEM_NAMES if s != "st++")])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plain-colours", action="store_true", help="strong views without colour changes")
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    options = parser.parse_args()
    if not options.table:
        if options.data is None:
            parser.error("give camvid or generated")
        if options.plain_colours:
            student.StrongView = PlainColours  # type: ignore[misc]
        for seed in options.seeds:
            for system in options.systems:
                key = {"data": options.data, "system": named(system, options), "seed": seed, "steps": options.steps}
                RESULTS.once(key, partial(run, system, seed, options))
    print(table())


if __name__ == "__main__":
    main()
