"""Keep the results of a study, one line of JSON each, so that the same command continues where it stopped."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


class Results:
    """The results in a file of JSON lines.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return map(json.loads, lines)

    def once(self, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        """Make and append the result with these keys, unless the file holds it already."""
        if not any(key.items() <= result.items() for result in self):
            result = {**key, **make()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Format the mean, and the standard deviation if there are several values; ``sign="+"`` shows the mean's sign."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}"
