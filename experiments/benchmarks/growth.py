"""Measure time per frame and peak memory of propagation, each case in a process of its own, and how both grow.

    python experiments/benchmarks/growth.py refine 20 1024 2048 19     one case: method, frames, height, width, classes

The flow is DIS `ultrafast`: how time and memory grow does not depend on the preset.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from clips import CITYSCAPES, CLASSES, SIZES, rolling_interval
from measuring import Rows, exponent, in_fresh_process, memory_of_this_process, size_name, use_threads

from wrp import PropagationModule, RefinementModule, SegmentationModule
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.runs.config import TeacherArgs

LARGE = (1024, 2048)
# Frames that are labelled before the clock starts.
WARM_UP = 4
TIME, PEAK, BEYOND = "ms a frame", "peak, MB", "beyond the libraries, MB"


@dataclass(frozen=True)
class Case:
    """One case: method, length, size and number of classes."""

    method: str
    frames: int
    height: int
    width: int
    classes: int


def networks(num_classes: int) -> tuple[SegmentationModule, RefinementModule]:
    """Make untrained networks, which take the same time and memory as trained ones."""
    args = TeacherArgs()
    network = args.recipe(pretrained=True).network
    teacher = SegmentationModule(num_classes, network, inference=args.inference)
    return teacher.eval(), RefinementModule(num_classes).eval()


def measure_here(case: Case) -> dict[str, float]:
    """Milliseconds per frame and megabytes of one case; the peak is that of this process up to now."""
    teacher, refiner = networks(case.classes) if case.method == "refine" else (None, None)
    module = PropagationModule(case.classes, [case.method], teacher, refiner, DIS("ultrafast", 1))
    size = (case.height, case.width, case.classes)
    batch = rolling_interval(case.frames, *size)
    before = memory_of_this_process("VmRSS")
    for _ in module.session(rolling_interval(WARM_UP, *size)):
        pass
    module.flow = FlowCache(DIS("ultrafast", 1))  # the cache holds the flow of the warm-up
    started = time.perf_counter()
    for _ in module.session(batch):
        pass
    seconds = time.perf_counter() - started
    peak = memory_of_this_process("VmHWM")
    return {TIME: 1e3 * seconds / (case.frames - 2), PEAK: peak, BEYOND: peak - before}


def measure(case: Case) -> dict[str, float]:
    """Measure one case in a fresh process."""
    found: dict[str, float] = in_fresh_process(__file__, *astuple(case))
    return found


def growth(axes: dict[str, Sequence[Case]]) -> tuple[Rows, Rows]:
    """Measure time and memory along each axis, and fit the exponents.

    Args:
        axes: The cases of each axis, named ``frames``, ``pixels`` or ``classes`` for what grows along it.
    """
    rows, fitted = [], []
    for axis, cases in axes.items():
        found = [measure(case) for case in cases]
        for case, costs in zip(cases, found, strict=True):
            size = size_name((case.height, case.width))
            rows.append(
                {"grows": axis, "method": case.method, "frames": case.frames, "size": size, "classes": case.classes}
                | costs
            )
        sizes = [c.height * c.width if axis == "pixels" else getattr(c, axis) for c in cases]
        fitted.append(
            {"grows": axis, "from": sizes[0], "to": sizes[-1]}
            | {"exponent of time": exponent(sizes, [one[TIME] for one in found])}
            | {"exponent of memory": exponent(sizes, [one[BEYOND] for one in found])}
        )
    return rows, fitted


def memory_by_length(sizes: Sequence[tuple[int, int]], counts: Sequence[int], method: str, num_classes: int) -> Rows:
    """Peak memory by the length of an interval."""
    rows = []
    for size in sizes:
        peaks = [measure(Case(method, count, *size, num_classes))[PEAK] for count in counts]
        by_length = {f"{count} frames, MB": peak for count, peak in zip(counts, peaks, strict=True)}
        slope = 1024 * (peaks[-1] - peaks[0]) / (counts[-1] - counts[0])
        last = {"slope, kB a frame": slope, "one frame itself, kB": 3 * size[0] * size[1] / 1024}
        rows.append({"": f"{method}, {size_name(size)}"} | by_length | last)
    return rows


def memory() -> list[Rows]:
    """Peak memory by the length of an interval, of motion alone and with all networks."""
    return [
        memory_by_length(SIZES, (50, 200, 800), "motion", CLASSES),
        memory_by_length([LARGE], (50, 100, 200), "motion", CLASSES),
        memory_by_length([LARGE], (5, 10, 20), "refine", CITYSCAPES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("motion", "refine"))
    for name in ("frames", "height", "width", "classes"):
        parser.add_argument(name, type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = vars(parser.parse_args())
    use_threads(options.pop("threads"))
    print(json.dumps(measure_here(Case(**options))))


if __name__ == "__main__":
    main()
