"""Kill commands at random moments, run them again, and compare what they wrote with that of an undisturbed run.

    python -m tests.fuzz.kills 25                         25 kills of each command
    python -m tests.fuzz.kills 8 selftrain autolabel      8 kills of these

Each kill is SIGKILL at a random moment between the first file that the command writes and its end. After one to three
of them, the command is run to its end: it must end well, leave nothing half-written, and have written the same bytes;
times alone may differ. A process that had ended already counts as no kill. The last lines are a table; "amid" are the
kills that left a state which is neither that before the command nor that after it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.clips import make_folder, make_images
from tests.forked import Forked, wrp
from wrp.io.tables import markdown_table

TIMES = {
    "stages.json": rb'"seconds": [0-9.]+',
    "metrics.json": rb'"seconds": \{[^}]*\}',
    "report.md": rb"## Seconds\n[^#]*",
    "report.html": rb"(?<=</th><td>)[0-9.]+(?=</td></tr>)",
}
"""What holds times in the files of a run, which may differ."""
LOCK = ".lock"
HANG = 3600
"""Seconds after which a command counts as one that does not end."""

TEACHER = ["--weights=none", "--teacher-steps=3", "--train_teacher.network.encoder_name=tu-test_resnet"]
TEACHER += ["--train_teacher.crop=[32,32]", "--train_teacher.batch=2"]
LISTS = ["--labelled=l.txt", "--unlabelled=u.txt", "--val=v.txt", "--steps=3", "--encoder=tu-test_resnet"]
STUDENT = [*TEACHER, "--student=plain", "--label-every=4"]
COMMANDS = {
    "autolabel": ["autolabel", "data", "--out=out", "--methods=copy,motion", "--label-every=2"],
    "autolabel with a student": ["autolabel", "data", "--out=out", "--methods=semantic", *STUDENT],
    "selftrain": ["selftrain", "st", "images", "--out=out", *LISTS, "--crop-size", "32", "32", "--batch-size=2"],
    "rectify": ["rectify", "taught"],
    "report": ["report", "run"],
    "suggest": ["suggest", "run"],
    "export": ["export", "run", "--format=cvat", "--out=exported"],
    "import": ["import", "voc", "--format=voc", "--into=empty", "--frames=all.txt"],
    "predict-images": ["predict-images", "taught", "images", "--out=out"],
    "search": ["search", "sweep.yaml", "--trials=2", "--out=out"],
}
SWEEP = {
    "metric": {"name": "val/miou", "goal": "maximize"},
    "parameters": {"model.optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}},
    "command": [
        *["wrp", "fit", "--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"],
        *["--data=SegmentationData", "--data.num_classes=3", "--data.root=data", "--data.select.label_every=4"],
        *["--data.sampling.crop_size=[32,32]", "--data.sampling.batch_size=2", "--seed_everything=0"],
        *["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "${args}"],
    ],
}


def prepare(folder: Path) -> None:
    """Make what the commands read: clips, images, a run by motion, one with a teacher, an export, a sweep."""
    make_folder(folder / "data", {"ride": 9, "walk": 9})
    make_folder(folder / "empty", {"ride": 9, "walk": 9}, labelled=())
    make_images(folder / "images", {"train": 6, "val": 2})
    for name, stems in {"l": ["train/view0", "train/view1"], "u": ["train/view2", "train/view3"]}.items():
        (folder / f"{name}.txt").write_text("\n".join(stems) + "\n")
    (folder / "v.txt").write_text("val/view0\nval/view1\n")
    (folder / "all.txt").write_text("".join(f"{clip}/{i:05d}\n" for clip in ("ride", "walk") for i in range(9)))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    for words in (
        ["autolabel", "data", "--out=run", "--methods=motion", "--label-every=4"],
        ["autolabel", "data", "--out=taught", "--methods=semantic", *TEACHER, "--label-every=4"],
        ["export", "run", "--format=voc", "--out=voc"],
    ):
        done = wrp(*words, folder=folder)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "run/report")
    for path in (folder / "run").glob("report.*"):
        path.unlink()


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return time and size of all files below a folder, also of those that are just being written."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if name != LOCK and os.path.isfile(path):
                try:
                    told = os.stat(path)
                except FileNotFoundError:  # it was a temporary one
                    continue
                found[path] = told.st_mtime_ns, told.st_size
    return found


def written(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOCK:
            content = path.read_bytes()
            if path.name in TIMES:
                content = re.sub(TIMES[path.name], b"", content)
            found[str(path.relative_to(folder))] = content
    return found


def leftovers(folder: Path) -> list[str]:
    """Return what is half-written below a folder."""
    marks = (".tmp", ".begun", "-unfinished.ckpt")
    return [str(path) for path in folder.rglob("*") if path.name.endswith(marks) or path.name == "wrp-temporary"]


def begin(words: Sequence[str], folder: Path) -> tuple[Forked, bool]:
    """Start a command in a group of its own; return it when it has written something, and whether it did."""
    before = state(folder)
    run = Forked(words, "import os; os.setsid()", folder)
    while run.runs():
        if state(folder) != before:
            return run, True
        time.sleep(0.002)
    return run, state(folder) != before


@dataclass
class Attack:
    """Kills of one command, the runs that went on after them, and what went wrong."""

    kills: int = 0
    amid: int = 0
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)

    def make(self, words: Sequence[str], made: Path, kills: int, draw: random.Random) -> None:
        """Kill a command until it was killed often enough, in copies of what it reads."""
        place = made.with_name("place")  # one path for all, as some files name it
        shutil.copytree(made, place)
        before = written(place)
        run, _ = begin(words, place)
        started = time.perf_counter()
        done = run.wait(HANG)
        took, expected = time.perf_counter() - started, written(place)
        shutil.rmtree(place)
        if done.returncode or expected == before:
            self.wrong.append(f"the undisturbed run has written nothing, or failed: {done.stderr}")
        for _ in range(20 * kills):  # most processes end before they are killed where a command is short
            if self.kills >= kills or self.wrong:
                return
            shutil.copytree(made, place)
            for _ in range(draw.randint(1, 3)):
                self.kill(words, place, draw.random() * took)
                self.amid += written(place) not in (before, expected)
            self.resume(words, place, expected)
            shutil.rmtree(place)
        self.wrong.append(f"only {self.kills} of {kills} processes were killed")

    def kill(self, words: Sequence[str], place: Path, seconds: float) -> None:
        """Kill a command so many seconds after its first file, with all processes that it has started."""
        run, _ = begin(words, place)
        run.process.join(seconds)
        if run.runs():
            os.killpg(run.pid, signal.SIGKILL)
        run.process.join()
        self.kills += run.process.exitcode == -signal.SIGKILL

    def resume(self, words: Sequence[str], place: Path, expected: dict[str, bytes]) -> None:
        """Run a command to its end, and note what is wrong with what it has written."""
        done = Forked(words, folder=place).wait(HANG)
        self.resumed += 1
        found = written(place)
        if done.returncode not in (0, 2) or (done.returncode and found != expected) or "Traceback" in done.stderr:
            self.wrong.append(done.stderr)  # what is whole already may be refused, as an export is
        self.wrong += [
            f"{name} differs" for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)
        ]
        self.wrong += [f"{name} is left" for name in leftovers(place)]


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
            attack = Attack()
            attack.make(COMMANDS[name], made, options.kills, random.Random(options.seed))
            shutil.rmtree(made.with_name("place"), ignore_errors=True)
            counts = (attack.kills, attack.amid, attack.resumed, len(attack.wrong))
            rows.append([name, *map(str, counts)])
            failed |= bool(attack.wrong)
            for line in attack.wrong:
                print(f"{name}: {line}", file=sys.stderr)
            print(rows[-1], flush=True)
    print(markdown_table(["command", "kills", "amid", "resumed", "wrong"], rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
