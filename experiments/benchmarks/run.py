"""Run all benchmarks and write their tables to one Markdown and one JSON file, with versions, hardware and commit.

    python experiments/benchmarks/run.py                              quick: under ten minutes on two idle cores
    python experiments/benchmarks/run.py --full --root camvid davis2016
    python experiments/benchmarks/run.py --only quality --root camvid --every 2 10 25 --seeds 0 1 2
    python experiments/benchmarks/run.py --only vote startup          only these tables

Quality and loaders are measured on the data sets of --root, in any layout that the package knows, or on a generated
scene; everything else on generated clips. Both files are written after each table; tables that are not made anew stay.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gpu
import jobs
import loader
import startup
import step
import torch
import writer
from clips import interval
from extent import FULL, QUICK, Extent
from growth import growth
from machine import machine
from measuring import Rows, table, use_threads
from propagating import propagation
from quality import by_motion, by_networks, finished
from tqdm import tqdm
from voting import voting

from wrp.data.layouts.registry import open_index
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import WrpError
from wrp.io.opening import read_json
from wrp.io.writing import write_json, write_text
from wrp.structures import ClipBatch

RESULTS = Path(__file__).parent / "results"


# Facts that may differ between the tables of one file.
OF_TABLES = ("commit", "system", "cores", "threads", "load at the start")


@dataclass(frozen=True)
class Part:
    """One table: title, description, rows, its name in :data:`TABLES`, and how it was made."""

    title: str
    what: str
    rows: Rows
    name: str = ""
    made: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Data sets, finished runs, and a working folder."""

    roots: list[str]
    runs: list[str]
    folder: Path


def quality(extent: Extent, inputs: Inputs) -> list[Part]:
    methods = {"methods": extent.methods} if extent.methods else {}
    what = (
        "mIoU, and J for masks of one object, in percent on the held-out frames, with every K-th frame labelled. K=2 "
        "is close to the best that can be reached: every held-out frame is next to a labelled one. With several seeds: "
        "mean ± standard deviation, where the seed is the number of the first label that is kept."
    )
    rows = by_motion(inputs.roots, extent.every, extent.seeds, **methods)
    return [Part("Quality by motion alone", what, rows)]


def networks(_: Extent, inputs: Inputs) -> list[Part]:
    if not inputs.runs:
        return []
    what = (
        "mIoU in percent, or J where the column says so, that finished runs have measured on their held-out frames; "
        "mean ± standard deviation over the runs."
    )
    return [Part("Quality with networks", what, by_networks(inputs.runs))]


def propagating(extent: Extent, _: Inputs) -> list[Part]:
    what = (
        "Time to label an interval from both keyframes with `motion`, compared with its DIS calls alone, made one "
        "after the other."
    )
    return [Part("Propagation over flow", what, propagation(generated, *extent.propagation))]


def votes(extent: Extent, _: Inputs) -> list[Part]:
    what = (
        "SegProp's vote (four sources) and the two-keyframe fusion, with the flows given, compared with a plain "
        "implementation of the vote that follows four sequences of flows anew for each frame; × says how many times "
        "as fast."
    )
    return [Part("Vote and fusion over the plain vote", what, voting(generated, extent.votes))]


def generated(count: int, size: tuple[int, int]) -> ClipBatch:
    return interval(*size, count)


def training_step(extent: Extent, _: Inputs) -> list[Part]:
    what = "A training step of SegmentationModule under the Trainer, compared with one in a plain torch loop; medians."
    return [Part("Module step over a plain loop", what, step.measure(*extent.steps))]


def loaders(extent: Extent, inputs: Inputs) -> list[Part]:
    what = (
        "Frames served per second, including the start of the workers, compared with decoding the same files one after "
        "the other; medians."
    )
    rows = [row for root in inputs.roots for row in loader.measure(root, *extent.loader)]
    return [Part("Loader over raw decoding", what, rows)]


def writers(extent: Extent, inputs: Inputs) -> list[Part]:
    what = (
        "LabelWriter, compared with encoding the same labels, confidence and provenance maps as PNG, in memory and in "
        "one thread."
    )
    return [Part("Writer over raw encoding", what, writer.measure(*extent.writer, inputs.folder))]


def growing(extent: Extent, _: Inputs) -> list[Part]:
    rows, exponents = growth(extent.growth)
    return [
        Part(
            "Time and memory by length, resolution and classes",
            "Propagation with DIS `ultrafast`; each row ran in a process of its own, whose peak memory is given.",
            rows,
        ),
        Part(
            "Fitted exponents",
            "Exponents fitted to the rows above, slopes on logarithmic scales: 0 is constant, 1 is linear. They are "
            "for the time per frame, and for the memory on top of what is used before propagation begins.",
            exponents,
        ),
    ]


def two_jobs(extent: Extent, inputs: Inputs) -> list[Part]:
    what = (
        "`wrp autolabel --methods motion` on two intervals, report included, as one job and as two with `--shard`. "
        "Ratios are relative to one job on one core; start-up is the time of a job with `--limit 0`."
    )
    return [Part("Two jobs over one", what, jobs.measure(inputs.folder, *extent.jobs))]


def on_gpu(extent: Extent, inputs: Inputs) -> list[Part]:
    if not torch.cuda.is_available():
        return [Part("GPU", f"This machine has no GPU: {gpu.NOT_YET}.", [])]
    what = "Untrained networks on generated clips; the docstring of gpu.py says what is measured."
    found = gpu.tables(torch.device("cuda"), extent.gpu, inputs.folder / "gpu")
    return [Part(title, what, rows) for title, rows in found.items()]


def starting(extent: Extent, _: Inputs) -> list[Part]:
    what = "Seconds that a fresh process takes, median; the files are in the system's cache."
    return [Part("Start-up", what, startup.measure(extent.startup))]


TABLES: dict[str, Callable[[Extent, Inputs], list[Part]]] = {
    "quality": quality,
    "networks": networks,
    "propagation": propagating,
    "vote": votes,
    "step": training_step,
    "loader": loaders,
    "writer": writers,
    "growth": growing,
    "jobs": two_jobs,
    "gpu": on_gpu,
    "startup": starting,
}


def markdown(facts: dict[str, Any], parts: Sequence[Part]) -> str:
    """Format the Markdown file."""
    sections = []
    for part in parts:
        made = f"`{part.made['command']}`: {_listed({k: v for k, v in part.made.items() if k != 'command'}, ', ')}"
        sections += [f"## {part.title}", part.what, made, *([table(part.rows)] if part.rows else [])]
    return "\n\n".join(["# Benchmarks", f"- {_listed(facts, chr(10) + '- ')}", *sections]) + "\n"


def _listed(facts: dict[str, Any], between: str) -> str:
    return between.join(f"{key}: {_text(value)}" for key, value in facts.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def measure(
    extent: Extent, inputs: Inputs, only: Sequence[str], out: Path, facts: dict[str, Any], made: dict[str, Any]
) -> None:
    """Make tables and write them.

    Args:
        extent: How much is measured.
        inputs: The data to measure with.
        only: Names of the tables to make.
        out: Path of both files, without suffix.
        facts: The machine and its software.
        made: Command, seeds and commit of these tables.
    """
    parts = kept(out, only, facts)
    for name in tqdm([name for name in TABLES if name in only], desc="Benchmarks", unit="part"):
        started = time.perf_counter()
        found = TABLES[name](extent, inputs)
        how = made | {"seconds": round(time.perf_counter() - started)}
        parts += [replace(part, name=name, made=how) for part in found]
        parts.sort(key=lambda part: list(TABLES).index(part.name))
        write_text(out.with_name(f"{out.name}.md"), markdown(facts, parts))
        write_json(
            out.with_name(f"{out.name}.json"), {"schema": 2, **facts, "tables": [asdict(part) for part in parts]}
        )


def kept(out: Path, only: Sequence[str], facts: dict[str, Any]) -> list[Part]:
    """Read the tables that exist and are not made anew.

    Raises:
        WrpError: If they come from another machine or other versions.
    """
    path = out.with_name(f"{out.name}.json")
    if set(only) == set(TABLES) or not path.is_file():
        return []
    there = read_json(path, "delete it, or give another --out")
    for key, value in {"schema": 2, **facts}.items():
        if there.get(key) != value:
            raise WrpError(
                f"{path} has tables with {key} {there.get(key)}, here it is {value}: give another --out, or delete it"
            )
    return [Part(**part) for part in there["tables"] if part["name"] not in only]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes of the published tables; takes hours")
    parser.add_argument("--root", nargs="+", default=[], help="data sets, looked for below WRP_DATA as well")
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        help="finished runs of `wrp autolabel --label-every K`, for `networks`",
    )
    parser.add_argument("--every", type=int, nargs="+", help="distances K between labels, for the table of quality")
    parser.add_argument("--seeds", type=int, nargs="+", help="numbers of the first label that is kept")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="make only these tables")
    parser.add_argument("--out", type=Path, default=RESULTS, help="path of both files, without .md and .json")
    parser.add_argument("--threads", type=int, default=2, help="of torch and OpenCV (default: %(default)s)")
    options = parser.parse_args()
    use_threads(options.threads)
    extent = FULL if options.full else QUICK
    extent = replace(extent, every=options.every or extent.every, seeds=options.seeds or extent.seeds)
    facts = machine()
    made = {"command": command(sys.argv[1:]), "seeds": list(extent.seeds)} | {key: facts.pop(key) for key in OF_TABLES}
    try:
        for root in options.root:  # before anything is measured
            open_index(root)
        for run in options.runs:
            finished(Path(run))
        with tempfile.TemporaryDirectory(prefix="wrp-benchmarks-") as folder:
            roots = options.root or [scene(extent, Path(folder))]
            measure(extent, Inputs(roots, options.runs, Path(folder)), options.only, options.out, facts, made)
    except WrpError as error:
        parser.error(str(error))
    print(options.out.with_name(f"{options.out.name}.md").read_text(encoding="utf-8"), end="")


def command(arguments: list[str]) -> str:
    """Format the command line, without --out."""
    kept = [word for word, before in zip(arguments, ["", *arguments], strict=False) if "--out" not in (word, before)]
    return " ".join(["run.py", *(word for word in kept if not word.startswith("--out="))])


def scene(extent: Extent, folder: Path) -> str:
    """Generate a data set."""
    frames, (height, width) = extent.scene
    return str(generate_folder(folder / "generated", num_frames=frames, height=height, width=width))


if __name__ == "__main__":
    main()
