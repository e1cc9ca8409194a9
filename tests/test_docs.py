"""The documentation builds without a warning, its Python runs, its YAML and its commands are understood."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.clips import make_video
from tests.pages import ROOT, blocks
from wrp.cli.main import COMMANDS, LIGHTNING_VERBS, _parser, main
from wrp.data import clipdata
from wrp.data.synthetic import folder as generated
from wrp.io.recipes import with_recipes
from wrp.runs.arguments import parse_arguments

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The commands of ours in a page's shell blocks, without comments; what stands for something is left as it is."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0] in ("wrp", ".venv/bin/wrp"):
                    found.append(words[1:])
    return found


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "extending.html").is_file()
    assert "<img" in (tmp_path / "notebooks" / "first-look.html").read_text(encoding="utf-8").partition("mIoU")[2]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"num_frames": 25, "height": 64, "width": 112}
    scene = partial(generated.generate_folder, tmp_path / "scene", **small)
    monkeypatch.setattr(clipdata, "cached_folder", lambda num_classes, seed: scene(num_classes, seed))
    names: dict[str, Any] = {}
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, block in enumerate(blocks(page, "python")):
        if file := re.match(r"# (\w+\.py)\n", block):  # which another block may import
            (tmp_path / file[1]).write_text(block)
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


def test_the_examples_are_short() -> None:
    for block in blocks(ROOT / "docs" / "extending.md", "python"):
        for definition in re.split(r"\n(?=class |def )", block):
            assert len([line for line in definition.splitlines() if line.strip()]) <= 15, definition


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_are_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if words[0] == "autolabel":
            assert parse_arguments(with_recipes(words)[1:])[0].out, words
        elif words[0] not in LIGHTNING_VERBS:
            _parser().parse_args([word for word in words if word not in ("…", "...")])
        elif words[0].isidentifier():
            assert main([*words, "--print_config"]) == 0, words
            assert "class_path" in capsys.readouterr().out


@pytest.mark.slow
def test_the_pages_by_task_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commands, in their order, on a video of a small scene; trainings have a few steps."""
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    scene = generated.generate_folder(tmp_path / "scene", num_frames=9, height=64, width=96)
    frames = [np.array(Image.open(path)) for path in sorted((scene / "frames" / "street0").iterdir())]
    make_video(tmp_path / "street.mp4", frames)
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for number in (0, 4, 8):
        shutil.copy(scene / "labels" / "street0" / f"{number:05d}.png", drawn / f"{number}.png")
    shutil.copy(scene / "classes.yaml", drawn)
    quick = ["--teacher-steps=3", "--refiner-steps=2", "--weights=none"]
    by_task = [commands(ROOT / "docs" / f"{page}.md") for page in ("own-video", "correct", "train")]
    for words in [*by_task[0], *by_task[1], *(words for words in by_task[2] if words[0] == "autolabel")]:
        assert main([*words, *(quick if words[0] == "autolabel" else [])]) == 0, words
        if words[0] == "init":  # the labels are put where they are expected
            shutil.move(drawn / "classes.yaml", "mine/classes.yaml")
            shutil.copytree(drawn, "mine/labels/street", dirs_exist_ok=True)
    assert (tmp_path / "labelled" / "report.html").is_file()
    manifest = (tmp_path / "labelled-again" / "manifest.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["method"] == "keyframe" for line in manifest) == 5
    assert (tmp_path / "labelled-again" / "student.ckpt").is_file()


def test_the_tests_of_the_fault_matrix_are_there() -> None:
    rows = re.findall(r"\[`(\w+)`\]\((\S+)\) \|$", (ROOT / "docs" / "reliability.md").read_text("utf-8"), re.M)
    assert len(rows) > 40
    for test, path in rows:
        assert f"def {test}(" in (ROOT / "docs" / path).read_text("utf-8"), (test, path)


def test_every_command_is_documented() -> None:
    parser = _parser()
    [verbs] = [action for action in parser._actions if action.choices]
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for verb in verbs.choices or ():
        assert f"wrp {verb}" in text or f"`{verb}`" in text or verb in LIGHTNING_VERBS, verb
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_yaml_is_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)
