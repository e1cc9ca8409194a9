"""Every figure of the README is that of the table that it comes from."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "docs/install.md", "experiments/README.md", "experiments/benchmarks/results.json")


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "experiments" / "readme.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module  # where its data classes look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_figures_are_those_of_their_sources(readme: ModuleType) -> None:
    assert readme.check(ROOT) == []


@pytest.mark.parametrize(
    ("name", "before", "after", "named"),
    [
        ("README.md", "| 87.4 | 85.2 |", "| 87.4 | 85.3 |", "every 25th: 85.3, but 85.21 in experiments/README.md"),
        ("README.md", "labelled has 88.8", "labelled has 88.9", "88.9, but 88.76 in experiments/benchmarks"),
        ("README.md", "took 10 minutes", "took 9 minutes", "9, but 10 in experiments/README.md"),
        ("README.md", "(one training)", "(one training of 3)", "no source of 3 "),
        ("README.md", "| every 50th |", "| every 100th |", "every 100th: no source"),
        ("docs/install.md", "| 4.3 GB |", "| 4.4 GB |", "4.3, but 4.4 in docs/install.md"),
        ("experiments/README.md", "| 87.40 ± 0.10 |", "| 87.60 ± 0.10 |", "every 10th: 87.4, but 87.60 in"),
        ("experiments/README.md", "### Three seeds", "### Seeds", "README.md has no section Three seeds"),
        ("README.md", "From scratch, `refine`", "Without weights, `refine`", "expects the sentence From scratch"),
        ("experiments/benchmarks/results.json", "88.78", "88.18", "88.8, but 88.46 in"),
    ],
)
def test_a_change_is_named(readme: ModuleType, copy: Path, name: str, before: str, after: str, named: str) -> None:
    text = (copy / name).read_text(encoding="utf-8")
    assert before in text
    (copy / name).write_text(text.replace(before, after), encoding="utf-8")
    found = readme.check(copy)
    assert any(named in line for line in found), found


def test_the_command_fails(
    readme: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readme, "ROOT", copy)
    with pytest.raises(SystemExit, match="0"):
        readme.main()
    text = (copy / "README.md").read_text(encoding="utf-8")
    (copy / "README.md").write_text(text.replace("| 83.4 |", "| 83.5 |"), encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        readme.main()
    [line] = [line for line in capsys.readouterr().out.splitlines() if "83.5" in line]
    assert line.startswith("README.md: `refine`")
