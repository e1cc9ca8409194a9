"""Compare the figures of the README with the tables that they come from.

    python experiments/readme.py

TABLES and SENTENCES say which cell each figure comes from: of a table on a page, or of benchmarks/results.json. Figures
may be rounded. Exits with 1 and names each figure that differs or has no source.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A number that is no part of a name, such as the 2 of NYU-V2.
NUMBER = r"(?<![\w.-])\d+(?:\.\d+)?"
N = f"({NUMBER})"


@dataclass(frozen=True)
class Cell:
    """A cell of a table in a section of a page, by the first cell of its row and the head of its column."""

    page: str
    section: str
    row: str
    column: str

    def read(self, root: Path) -> list[Decimal]:
        """Return the numbers of the cell, without what follows a ±; LookupError if there is no such cell."""
        for table in tables(section(root / self.page, self.section)):
            head, *rows = table
            if self.column in head and (found := [row for row in rows if row[0] == self.row]):
                return numbers(found[0][head.index(self.column)].partition("±")[0])
        raise LookupError(f"{self.page} has no such cell")

    def __str__(self) -> str:
        return f"{self.page}, {self.section}, {self.row}, {self.column}"


@dataclass(frozen=True)
class Benchmark:
    """A cell of benchmarks/results.json, by the title of its table, its column, and what its row holds in others."""

    title: str
    row: tuple[tuple[str, str | int], ...]
    column: str

    def read(self, root: Path) -> list[Decimal]:
        """Return the cell, or the mean of its seeds; LookupError if there is no such cell."""
        content = json.loads((root / "experiments/benchmarks/results.json").read_text(encoding="utf-8"))
        for table in content["tables"]:
            for row in table["rows"]:
                same = all(row.get(key) == value for key, value in self.row)
                if table["title"] == self.title and same and self.column in row:
                    seeds = row[self.column] if isinstance(row[self.column], list) else [row[self.column]]
                    return [statistics.mean(Decimal(str(seed)) for seed in seeds)]
        raise LookupError("experiments/benchmarks/results.json has no such cell")

    def __str__(self) -> str:
        row = ", ".join(f"{key} {value}" for key, value in self.row)
        return f"experiments/benchmarks/results.json, {self.title}, {row}, {self.column}"


PAGE = "experiments/README.md"
WHOLE = "The whole job with pretrained weights"

# Tables of the README by their first head: page and section, and which column is which there. Rows begin with the
# same word on both pages.
TABLES = {"method": (PAGE, WHOLE, {"every 10th": "K=10", "every 25th": "K=25", "every 50th": "K=50"})}

# Sentences by pattern, with the cells whose numbers are those of its groups, in their order.
SENTENCES: dict[str, list[Cell | Benchmark]] = {
    rf"about {N} GB of packages, {N} GB of them CUDA": [
        Cell("docs/install.md", "Without CUDA", "all of them, with CUDA", "on the disk"),
        Cell("docs/install.md", "Without CUDA", "the 19 packages of CUDA that it brings", "on the disk"),
    ],
    rf"Training, labelling and report took {N} minutes {N} seconds": [Cell(PAGE, WHOLE, "K=50", "all")],
    rf"From scratch, `refine` has {N}, {N} and {N}": [
        Cell(PAGE, "Three seeds", "refine", column) for column in ("K=10", "K=25", "K=50")
    ],
    rf"`motion` with every second frame labelled has {N}": [
        Benchmark("Quality by motion alone", (("data", "camvid"), ("K", 2)), "motion")
    ],
    rf"has {N} by itself, where its teacher has {N}": [
        Cell(PAGE, "Students", "K=25, pretrained", "student"),
        Cell(PAGE, "Students", "K=25, pretrained", "teacher"),
    ],
}

# Numbers that are no results: names, versions and settings.
OTHERS = (r"`[^`]*`", r"\d+th\b", r"ICCV 2021", r"Python ≥ 3\.10", r"DAVIS 2016", r"numbers of their frames from 0")


def numbers(text: str) -> list[Decimal]:
    """Return the numbers in a text that are no parts of names."""
    return [Decimal(found) for found in re.findall(NUMBER, text)]


def section(page: Path, title: str) -> str:
    """Return the text below a heading of a page up to the next one; LookupError if there is no such heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", page.read_text(encoding="utf-8"), re.M | re.S)
    if found is None:
        raise LookupError(f"{page.name} has no section {title}")
    return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text as rows of cells, heads first, without the line below them."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]
    return [[head, *body] for head, _, *body in rows]


def differences(where: str, figures: list[str], cells: list[Cell | Benchmark], root: Path) -> list[str]:
    """Compare figures with the numbers of cells; a figure may be off by half of its last digit."""
    try:
        sources = [number for cell in cells for number in cell.read(root)]
    except LookupError as error:
        return [f"{where}: no source: {error}: {'; '.join(map(str, cells))}"]
    if len(sources) != len(figures):
        return [f"{where}: {len(figures)} figures, but {len(sources)} in {'; '.join(map(str, cells))}"]
    return [
        f"{where}: {figure}, but {source:.6g} in {'; '.join(map(str, cells))}"
        for figure, source in zip(figures, sources, strict=True)
        if abs(Decimal(figure) - source) > Decimal((0, (5,), int(Decimal(figure).as_tuple().exponent) - 1))
    ]


def check(root: Path) -> list[str]:
    """Return a line for each figure of the README that differs from its source or has none."""
    text = re.sub(r"^```.*?^```\n", "", (root / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
    in_tables = [line for head, *rows in tables(text) for row in rows for line in check_row(head, row, root)]
    text = re.sub(r"^\|.*\n", "", text, flags=re.M)
    return in_tables + check_sentences(" ".join(re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text).split()), root)


def check_row(head: list[str], row: list[str], root: Path) -> list[str]:
    """Compare the cells of a row behind its first one."""
    found = []
    page, title, columns = TABLES.get(head[0], ("", "", {}))
    for column, cell in zip(head[1:], row[1:], strict=True):
        where = f"{row[0]}, {column}"
        if column in columns:
            source = Cell(page, title, row[0].partition(":")[0].strip("`"), columns[column])
            found += differences(where, re.findall(NUMBER, cell), [source], root)
        else:
            found.append(f"{where}: no source in experiments/readme.py")
    return found


def check_sentences(text: str, root: Path) -> list[str]:
    """Compare the figures of a text without tables, code and links."""
    found = []
    for pattern, cells in SENTENCES.items():
        if sentence := re.search(pattern, text):
            found += differences(sentence[0], list(sentence.groups()), cells, root)
            text = text.replace(sentence[0], " ")
        else:
            found.append(f"experiments/readme.py expects the sentence {pattern}")
    text = re.sub("|".join(OTHERS), " ", text)
    return found + [
        f"{text[max(0, one.start() - 40) : one.end() + 20].strip()}: no source of {one[0]} in experiments/readme.py"
        for one in re.finditer(NUMBER, text)
    ]


def main() -> None:
    """Print what differs, and exit with 1 if anything does."""
    found = check(ROOT)
    print("\n".join(f"README.md: {line}" for line in found) or "README.md: every figure is that of its source")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
