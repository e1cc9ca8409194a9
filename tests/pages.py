"""The blocks of code on the pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"# (my_\w+)\.py\n")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def named_files(page: str) -> dict[str, str]:
    """The Python files of a page, which say their names in their first lines, by these names."""
    found = blocks(ROOT / "docs" / f"{page}.md", "python")
    return {name[1]: block for block in found if (name := NAMED.match(block))}
