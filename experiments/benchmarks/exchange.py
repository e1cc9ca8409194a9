"""Measure how time and peak memory of `wrp export` and `wrp import` grow with the number of frames.

    python experiments/benchmarks/exchange.py FOLDER                      1000 and 3000 frames, all formats
    python experiments/benchmarks/exchange.py FOLDER --frames 2000 20000 --formats coco cvat-video

The run that is exported is one of `wrp autolabel` over generated clips, by a flow that takes no time. All of its labels
are written, and then read into a data set without labels; the frames themselves are not copied. Each command runs in a
process of its own, a fork of this one, whose peak memory, libraries included, is given. What "grows" is the slope
between the least and the largest number of frames.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import Rows, memory_of_this_process, table, use_threads
from scale import linked_clips

from wrp.cli.main import main as wrp
from wrp.exchange.export import FORMATS, WRITTEN_ONLY

CLIP = 100
"""Frames of a clip."""


def run(*command: object) -> dict[str, float]:
    """Run a command of `wrp` in a process of its own; return the seconds of its CPU and its peak in MB."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(timed([str(part) for part in command])))
    process.start()
    sender.close()
    try:
        found: dict[str, float] = receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"`wrp {' '.join(map(str, command))}` has failed, see above") from error
    finally:
        process.join()
    return found


def timed(arguments: list[str]) -> dict[str, float]:
    """Run `wrp` in this process, which then holds the memory that it needs."""
    started = time.process_time()
    if code := wrp(arguments):
        raise RuntimeError(f"`wrp {' '.join(arguments)}` ended with exit code {code}")
    return {"s": time.process_time() - started, "MB": memory_of_this_process("VmHWM")}


def labelled(folder: Path, frames: int, size: tuple[int, int]) -> Path:
    """Make a run, in `run`, and its data set without labels, in `bare`; what is there is used again."""
    place = folder / f"{frames}-{size[0]}x{size[1]}"
    if not (place / "all.txt").is_file():
        shutil.rmtree(place, ignore_errors=True)
        root = linked_clips(folder, frames // CLIP, CLIP, size)
        run("autolabel", root, "--out", place / "run", "--methods=motion", "--flow=scale.Still")
        (place / "bare").mkdir()
        (place / "bare/frames").symlink_to(root / "frames")
        shutil.copy(root / "classes.yaml", place / "bare")
        labels = place / "run/labels"
        names = sorted(path.relative_to(labels).with_suffix("").as_posix() for path in labels.glob("*/*.png"))
        (place / "all.txt").write_text("\n".join(names), encoding="utf-8")
    return place


def both_ways(place: Path, name: str) -> dict[str, dict[str, float]]:
    """Export a run and import what was written; return what `run` does of both, and the size of the files in MB."""
    out, labels = place / "out", place / "bare/labels"
    for left in (out, labels):
        shutil.rmtree(left, ignore_errors=True)
    found = {"export": run("export", place / "run", "--format", name, "--images=none", "--out", out)}
    found["files"] = {"MB": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20}
    if name in FORMATS:
        found["import"] = run("import", out, "--format", name, "--into", place / "bare", "--frames", place / "all.txt")
        written = sum(1 for _ in labels.glob("*/*.png"))
        if written != len((place / "all.txt").read_text(encoding="utf-8").splitlines()):
            raise RuntimeError(f"{name}: {written} labels came back")
    for left in (out, labels):
        shutil.rmtree(left, ignore_errors=True)
    return found


def measure(folder: Path, names: Sequence[str], counts: Sequence[int], size: tuple[int, int]) -> Rows:
    """Measure formats at several numbers of frames.

    Args:
        folder: Where to write.
        names: The formats.
        counts: The numbers of frames, ascending.
        size: Height and width of the frames.

    Returns:
        A row for each format.
    """
    places = [labelled(folder, count, size) for count in counts]
    rows: Rows = []
    for name in names:
        found = [both_ways(place, name) for place in places]

        def slope(what: str, unit: str, found: list[dict[str, dict[str, float]]] = found) -> float:
            return (found[-1][what][unit] - found[0][what][unit]) / (counts[-1] - counts[0])

        row: dict[str, Any] = {"format": name, "files, kB a frame": 1024 * slope("files", "MB")}
        for what in ("export", "import"):
            is_there = what in found[0]
            for count, one in zip(counts, found, strict=True):
                row[f"{what}, {count} frames, MB"] = one[what]["MB"] if is_there else None
            row[f"{what} grows, kB a frame"] = 1024 * slope(what, "MB") if is_there else None
            row[f"{what}, ms of the CPU a frame"] = 1000 * slope(what, "s") if is_there else None
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where data sets, runs and exports are written")
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 3000], metavar="N", help="multiples of 100")
    parser.add_argument("--formats", nargs="+", default=[*FORMATS, *WRITTEN_ONLY], metavar="NAME")
    parser.add_argument("--size", type=int, nargs=2, default=(48, 80), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    use_threads(1)
    print(table(measure(options.folder.resolve(), options.formats, sorted(options.frames), tuple(options.size))))


if __name__ == "__main__":
    main()
