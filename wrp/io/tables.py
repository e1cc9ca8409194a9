"""Tables as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

Table = tuple[list[str], list[list[str]]]
"""Header and rows; the first column holds names, the others numbers."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table with aligned columns; all but the first are numbers.

    Args:
        header: The cells of the header.
        rows: The cells of the rows, as many as in the header.

    Returns:
        The lines of the table, joined.

    Example:
        >>> print(markdown_table(["method", "mIoU"], [["motion", format_score(89.44)], ["copy", format_score(None)]]))
        | method | mIoU |
        |--------|-----:|
        | motion | 89.4 |
        | copy   |    – |
    """
    header, rows = [escape_markdown(cell) for cell in header], [[escape_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in aligned]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|")
    return "\n".join(lines)


# Characters with which code, links, HTML, emphasis and cells begin or end.
_MARKUP = re.compile(r"[\\`*\[\]<>|]")
_CODE = re.compile(r"(`[^`\n]+`)")


def escape_markdown(text: str) -> str:
    r"""Escape what Markdown would not show as it is, as names of clips and classes may be anything.

    Example:
        >>> print(escape_markdown("a_b|<img>"))
        a_b\|\<img\>
    """
    return _MARKUP.sub(r"\\\g<0>", text)


def escape_prose(text: str) -> str:
    r"""Escape what Markdown would not show as it is, outside of code between backticks.

    Example:
        >>> print(escape_prose("Label next: a<b>/3; `wrp suggest -n 1 <run>`"))
        Label next: a\<b\>/3; `wrp suggest -n 1 <run>`
    """
    return "".join(part if number % 2 else escape_markdown(part) for number, part in enumerate(_CODE.split(text)))


def format_score(value: float | None) -> str:
    """Format a score with one digit after the point, or as a dash if there is none.

    Example:
        >>> format_score(89.44), format_score(None)
        ('89.4', '–')
    """
    return "–" if value is None else f"{value:.1f}"
