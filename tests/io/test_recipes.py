"""The configurations that come with the package: in a checkout, in a wheel, by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.io.recipes import recipes, with_recipes

ROOT = Path(__file__).parents[2]


def test_every_configuration_is_a_recipe_that_says_what_for_and_where_it_was_run() -> None:
    files = [path for path in (ROOT / "experiments").rglob("*.yaml") if path.parent.name != "sweeps"]
    assert sorted(recipes()) == sorted(f"{path.parent.name}/{path.stem}" for path in files)
    for recipe in recipes().values():
        first, second = recipe.text.splitlines()[:2]
        assert (first[:2], first[-1]) == ("# ", "."), recipe.name
        assert second.startswith(("# Status: run on ", "# Status: NOT RUN")), recipe.name
        assert set(recipe.verbs) <= {"fit", "test", "predict", "autolabel"}


def test_they_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "cityscapes/teacher (wrp fit)\n" in listed
    assert "generated/propagation (wrp test, wrp predict)\n" in listed
    assert "cityscapes/autolabel (wrp autolabel)\n" in listed
    assert listed.count("NOT RUN") >= 10
    assert main(["recipes", "generated/teacher"]) == 0
    assert capsys.readouterr().out == (ROOT / "experiments/generated/teacher.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["fit", "--recipe", "cityscape/techer"],
            "there is no recipe cityscape/techer; did you mean cityscapes/teacher",
        ),
        (["fit", "--recipe=teacher"], "did you mean camvid/teacher or cityscapes/teacher or generated/teacher?"),
        (["recipes", "zzz"], "there is no recipe zzz; `wrp recipes` lists all"),
        (["fit", "--recipe"], "--recipe needs the name of a recipe"),
        (["test", "--recipe", "--trainer.devices=1"], "--recipe needs the name of a recipe"),
        (["fit", "--recipe=cityscapes/autolabel"], "is for wrp autolabel, not for wrp fit"),
        (["autolabel", "--recipe=camvid/teacher"], "is for wrp fit, not for wrp autolabel"),
        (
            ["autolabel", "--config=a.yaml", "--recipe=cityscapes/autolabel"],
            "--recipe and --config cannot both be given",
        ),
        (["fit", "--recip=generated/teacher"], "unrecognized argument --recip; did you mean --recipe?"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    errors = capsys.readouterr().err.strip()
    assert said in errors
    assert "\n" not in errors


def test_what_is_given_besides_overrides_a_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.yaml").write_text("trainer: {max_steps: 7}")
    given = [
        "fit",
        "--recipe",
        "generated/teacher",
        "--config=more.yaml",
        "--model.optimizer.lr=0.25",
        "--print_config",
    ]
    monkeypatch.setattr(sys, "argv", ["wrp", *given])
    assert main() == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["max_steps"] == 7
    assert printed["model"]["init_args"]["optimizer"]["lr"] == 0.25
    assert printed["data"]["init_args"]["sampling"]["epoch_length"] == 800  # the file's
    assert sys.argv[2].startswith("--config=")  # what processes of a strategy are started with


def test_a_recipe_for_autolabel_gives_settings() -> None:
    from wrp.runs.arguments import parse_arguments

    _, *given = with_recipes(["autolabel", "--recipe", "cityscapes/autolabel", "--seed=5"])
    settings, _ = parse_arguments(given)
    assert (settings.root, settings.methods, settings.run.seed) == ("cityscapes", ("refine",), 5)


@pytest.mark.slow
def test_a_wheel_holds_them(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="70.1")  # the first that builds wheels by itself
    source = tmp_path / "source"
    source.mkdir()
    for name in ("wrp", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    there = sorted(path.relative_to(installed).as_posix() for path in installed.glob("wrp/recipes/*/*.yaml"))
    assert there == [f"wrp/recipes/{name}.yaml" for name in recipes()]
    assert (installed / "wrp/report/templates/report.css").is_file()
    assert (installed / "wrp/py.typed").is_file()
    shutil.rmtree(source)  # no checkout is beside it
    code = "import wrp.io.recipes as r; print(r.__file__, r.find_recipe('generated/teacher').path)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    files = ("io/recipes.py", "recipes/generated/teacher.yaml")
    assert said.stdout.split() == [str(installed / "wrp" / name) for name in files]


def test_an_unknown_name_is_an_error_for_python() -> None:
    with pytest.raises(WrpError, match=r"there is no recipe davis/propagated; did you mean davis/propagation"):
        with_recipes(["test", "--recipe=davis/propagated"])
