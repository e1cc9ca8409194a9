"""Measure time and memory of all geometry, as ratios within one run.

    python experiments/benchmarks/motion.py                      all tables, on a generated clip
    python experiments/benchmarks/motion.py --root camvid        on a real clip; adds the table of composed flow
    python experiments/benchmarks/motion.py --only vote          one table
    python experiments/benchmarks/motion.py --only propagation --threads 1 --sizes 640x480 512x512

Frames are decoded before the clock starts. Each time is the shortest of several repetitions; the pieces of work that
are compared take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from clips import SIZES, interval, real_interval
from growth import memory
from measuring import Rows, table, use_threads
from propagating import propagation
from sampling import composed, primitives
from voting import voting

from wrp.structures import ClipBatch

VOTES = (*((SIZES[0], every) for every in (10, 25, 50)), *((SIZES[1], every) for every in (10, 25)))


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="data set of a real clip, looked for below WRP_DATA as well")
    parser.add_argument("--only", choices=("propagation", "vote", "memory", "composed", "primitives"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=SIZES, type=_size, metavar="WxH", help="of `propagation`")
    options = parser.parse_args()
    use_threads(options.threads)

    def make(count: int, size: tuple[int, int]) -> ClipBatch:
        return real_interval(options.root, count, size) if options.root else interval(*size, count)

    tables: dict[str, Callable[[], list[Rows]]] = {
        "primitives": lambda: [primitives(SIZES)],
        "propagation": lambda: [propagation(make, options.sizes, 26)],
        "vote": lambda: [voting(make, VOTES)],
        "memory": memory,
    }
    if options.root:
        tables["composed"] = lambda: [composed(options.root)]
    for name, measure in tables.items():
        if options.only in (None, name):
            print(f"\n{name} ({options.threads} threads, {Path(options.root or 'generated').name})", flush=True)
            for rows in measure():
                print(f"\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
