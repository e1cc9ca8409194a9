"""The words of the glossary: the old ones are in no public name, flag, key of a file or heading."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wrp
from wrp.cli.main import _parser
from wrp.runs.arguments import make_parser

ROOT = Path(wrp.__file__).parent
PAGES = [ROOT.parent / "README.md", *sorted((ROOT.parent / "docs").glob("*.md"))]

# What each is called now stands in docs/glossary.md.
OLD = {
    *("anchor", "anchors", "hidden", "targets", "evidence", "chain", "chains", "walk", "walks", "visit", "visits"),
    *("guess", "guesser", "guesses", "views", "deployed", "taught", "ahead", "spool", "oracle", "elect", "decide"),
    *("reach", "share", "shares", "said", "asked"),
}

# The paper's anchor vectors of CISC-R.
CISC = ("selftraining/cisc_r.py", "runs/selftrain/systems.py", "runs/rectify.py")


def old_words(name: str) -> set[str]:
    """The old words in an identifier, a flag or a heading."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)} & OLD


def public_names(tree: ast.Module) -> Iterator[str]:
    """Names of public functions, classes, their public methods, fields and parameters, and of constants."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
            yield from _inside(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from _assigned(node)


def _inside(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield from (one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
        return
    for member in node.body:
        if isinstance(member, ast.FunctionDef):
            if not member.name.startswith("_"):
                yield member.name
            if not member.name.startswith("_") or member.name == "__init__":
                yield from _inside(member)
        elif isinstance(member, ast.Assign | ast.AnnAssign):
            yield from _assigned(member)


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    yield from (one.id for one in targets if isinstance(one, ast.Name) and not one.id.startswith("_"))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_names(path: Path) -> None:
    allowed = {"anchor", "anchors"} if path.as_posix().endswith(CISC) else set()
    names = public_names(ast.parse(path.read_text(encoding="utf-8")))
    assert not {name: found for name in names if (found := old_words(name) - allowed)}


def test_flags() -> None:
    parsers = [make_parser(), _parser()]
    for parser in parsers:
        for action in parser._actions:
            choices = action.choices if isinstance(action.choices, dict) else {}
            parsers += [one for one in choices.values() if hasattr(one, "_actions")]
            assert not old_words(" ".join([*action.option_strings, action.dest])), action
    assert len(parsers) > 10


def keys(content: Any) -> Iterator[str]:
    """All keys in a JSON value, but for names of clips and classes."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from keys(value)
    elif isinstance(content, list):
        for value in content:
            yield from keys(value)


def test_keys_of_files(reported: Path) -> None:
    files = [path for path in reported.rglob("*.json*") if path.is_file()]
    assert {"manifest.jsonl", "metrics.json", "settings.json", "stages.json"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        contents = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
        found = {key for key in keys(contents) if old_words(key) and not Path(key).is_absolute()}  # labels by path
        found -= {"walk"}  # the name of its clip
        assert not found, path
    assert not any(old_words(path.name) for path in reported.iterdir())
    assert '"method": "anchor"' not in (reported / "manifest.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings(page: Path) -> None:
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M):
        assert not old_words(heading), heading


def test_headings_of_the_report(reported: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", (reported / "report.md").read_text(encoding="utf-8"), re.M)
    template = (ROOT / "report" / "templates" / "report.html.j2").read_text(encoding="utf-8")
    headings += re.findall(r"<(?:h\d|dt|th)[^>]*>([^<{]+)", template)
    assert len(headings) > 5
    assert not [heading for heading in headings if old_words(heading) - {"walk"}]  # the name of its clip


def test_an_old_word_is_found() -> None:
    assert old_words("hiddenFrames") == {"hidden"}
    assert old_words("anchor_weights") == {"anchor"}
    assert old_words("--oracle") == {"oracle"}
    assert not old_words("chained_shared_sharing")
