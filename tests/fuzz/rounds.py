"""Run the tests of this folder with other damage in each round, until the time is over.

    python -m tests.fuzz.rounds --minutes 60
    python -m tests.fuzz.rounds --minutes 10 --first 7 tests/fuzz/test_videos.py -k gif

Tests that try the same each time are left out. What fails is shown with the case and the seed of the round, with which
`pytest --hypothesis-profile=long --hypothesis-seed=SEED` finds it again. The last lines are a table of the cases that
were tried, by file. A case that takes more memory than --memory is a failure, and so is a test that takes more than an
hour.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from wrp.io.tables import markdown_table

PATTERN = re.compile(r"(\d+) passing, (\d+) failing")


class Rounds:
    """A plugin of pytest which counts cases, and stops when the time is over.

    Args:
        seconds: The time.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.cases: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """Keep what draws its cases."""
        items[:] = [item for item in items if getattr(item.obj, "is_hypothesis_test", False)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the cases of a test; `_hypothesis_stats` is what --hypothesis-show-statistics prints."""
        name = Path(report.nodeid.partition("::")[0]).name
        self.failed[name] += report.failed
        text = str(getattr(report, "_hypothesis_stats", ""))
        self.cases[name] += sum(int(passed) + int(failed) for passed, failed in PATTERN.findall(text))

    def pytest_runtest_logfinish(self) -> None:
        """Stop between two tests."""
        if time.monotonic() > self.end:
            pytest.exit("the time is over", returncode=0)


def main() -> int:
    """Run rounds, print what failed and a table, and return 1 if anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of this machine's time (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first round")
    parser.add_argument("--memory", type=float, default=6, metavar="GB", help="that may be used (default: %(default)s)")
    options, chosen = parser.parse_known_args()
    resource.setrlimit(resource.RLIMIT_DATA, (int(options.memory * 2**30), resource.RLIM_INFINITY))
    started, spent, seed = time.monotonic(), time.process_time(), options.first
    rounds = Rounds(60 * options.minutes)
    given = chosen if any(not word.startswith("-") for word in chosen[:1]) else [str(Path(__file__).parent), *chosen]
    while time.monotonic() < rounds.end:
        words = [*given, "-q", "-p", "no:cacheprovider", "--tb=short", "--hypothesis-profile=long", "--timeout=3600"]
        code = pytest.main([*words, f"--hypothesis-seed={seed}"], plugins=[rounds])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return int(code)
        seed += 1
    rows = [[name, f"{count:,}", str(rounds.failed[name])] for name, count in sorted(rounds.cases.items())]
    rows.append(["all", f"{rounds.cases.total():,}", str(rounds.failed.total())])
    print(markdown_table(["file", "cases", "failed"], rows))
    minutes, spent = (time.monotonic() - started) / 60, (time.process_time() - spent) / 60
    print(f"{minutes:.0f} minutes, {spent:.0f} of a core; seeds {options.first} to {seed - 1}")
    return int(rounds.failed.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
