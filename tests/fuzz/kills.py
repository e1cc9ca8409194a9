"""Kill commands at random moments, run them again, and compare what they wrote with that of an undisturbed run.

    python -m tests.fuzz.kills 25                         25 kills of each command
    python -m tests.fuzz.kills 8 selftrain autolabel      8 kills of these

Each kill is SIGKILL after a random part of the time that the command takes. After one to three of them, the command is
run to its end: it must end well, leave nothing half-written, and have written the same bytes. The last lines are a
table of how often that was so.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.clips import make_folder, make_images
from tests.forked import Forked, wrp
from wrp.io.tables import markdown_table

TIMES = ("metrics.json", "stages.json", "report.md", "report.html", "settings.json", "wrp.json", ".lock")
"""Files that hold times, or paths and versions."""

TEACHER = ["--weights=none", "--teacher-steps=3", "--train_teacher.network.encoder_name=tu-test_resnet"]
TEACHER += ["--train_teacher.crop=[32,32]", "--train_teacher.batch=2"]
LISTS = ["--labelled=l.txt", "--unlabelled=u.txt", "--val=v.txt", "--steps=3", "--encoder=tu-test_resnet"]
COMMANDS = {
    "autolabel": ["autolabel", "data", "--out=out", "--methods=copy,motion", "--label-every=2"],
    "autolabel with a student": ["autolabel", "data", "--out=out", "--methods=semantic", "--student=plain", *TEACHER],
    "selftrain": ["selftrain", "st", "images", "--out=out", *LISTS, "--crop-size", "32", "32", "--batch-size=2"],
    "rectify": ["rectify", "taught"],
    "report": ["report", "run"],
    "suggest": ["suggest", "run"],
    "export": ["export", "run", "--format=cvat", "--out=exported"],
    "import": ["import", "voc", "--format=voc", "--into=empty", "--changed-from=run", "--force"],
    "predict-images": ["predict-images", "taught", "images", "--out=out"],
}


def prepare(folder: Path) -> None:
    """Make what the commands read: clips, images, a run by motion, one with a teacher, an export."""
    make_folder(folder / "data", {"ride": 9, "walk": 9})
    make_folder(folder / "empty", {"ride": 9, "walk": 9}, labelled=())
    make_images(folder / "images", {"train": 6, "val": 2})
    for name, stems in {"l": ["train/view0", "train/view1"], "u": ["train/view2", "train/view3"]}.items():
        (folder / f"{name}.txt").write_text("\n".join(stems) + "\n")
    (folder / "v.txt").write_text("val/view0\nval/view1\n")
    for words in (
        ["autolabel", "data", "--out=run", "--methods=motion", "--label-every=4"],
        ["autolabel", "data", "--out=taught", "--methods=semantic", *TEACHER, "--label-every=4"],
        ["export", "run", "--format=voc", "--out=voc"],
    ):
        done = wrp(*words, folder=folder)
        assert done.returncode == 0, done.stderr


def written(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder but those that hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMES]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def leftovers(folder: Path) -> list[str]:
    """Return what is half-written below a folder."""
    marks = (".tmp", ".begun", "-unfinished.ckpt")
    return [str(path) for path in folder.rglob("*") if path.name.endswith(marks) or path.name == "wrp-temporary"]


def attack(words: Sequence[str], made: Path, kills: int, draw: random.Random) -> tuple[int, int, list[str]]:
    """Kill a command until it was killed often enough, and return kills, resumed runs and what went wrong."""
    whole = Path(shutil.copytree(made, made.with_name("whole")))
    started = time.perf_counter()
    done = wrp(*words, folder=whole)
    took, expected = time.perf_counter() - started, written(whole)
    wrong = [done.stderr] if done.returncode else []
    killed = runs = 0
    while killed < kills and not wrong:
        place = Path(shutil.copytree(made, made.with_name("place")))
        for _ in range(draw.randint(1, 3)):
            run = Forked(words, folder=place)
            time.sleep(draw.random() * took)
            killed += run.runs()
            run.kill()
        done = wrp(*words, folder=place)
        runs += 1
        found = written(place)
        if done.returncode and found != expected:  # what is whole already may be refused, as an export is
            wrong.append(done.stderr)
        wrong += [f"{name} differs" for name in {*found, *expected} if found.get(name) != expected.get(name)]
        wrong += [f"{name} is left" for name in leftovers(place)]
        shutil.rmtree(place)
    shutil.rmtree(whole)
    return killed, runs, wrong


def main() -> int:
    """Attack the commands, print what went wrong and a table, and return 1 if anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, help="kills of each command")
    parser.add_argument("commands", nargs="*", help=f"of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        made = Path(folder, "made")
        prepare(made)
        for name in options.commands or COMMANDS:
            killed, runs, wrong = attack(COMMANDS[name], made, options.kills, random.Random(options.seed))
            rows.append([name, str(killed), str(runs), str(len(wrong))])
            failed |= bool(wrong)
            for line in wrong:
                print(f"{name}: {line}", file=sys.stderr)
            print(rows[-1], flush=True)
    print(markdown_table(["command", "kills", "resumed", "wrong"], rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
