"""`wrp search`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "search",
        help="run a W&B sweep offline, with optuna",
        description="Run the command of a W&B sweep file with values drawn by optuna. Run it again to resume.",
    )
    verb.add_argument("sweep", help="sweep file, such as experiments/sweeps/refiner.yaml")
    verb.add_argument("--trials", type=int, default=20, metavar="N", help="trials in total (default: %(default)s)")
    verb.add_argument("--out", required=True, help="folder to write to")
    verb.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    verb.set_defaults(run=_search)


def _search(options: argparse.Namespace) -> None:
    from wrp.io.writing import follow_links
    from wrp.runs.search import search, search_table

    out = follow_links(Path(options.out))
    print(search_table(search(Path(options.sweep), options.trials, out, options.seed)))
