"""Who may import whom, and what an import may load: the house rules of the package, read from its sources."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import wrp

ROOT = Path(wrp.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
LONGEST = 330

# The first part of a module's path below wrp, and what it may import of the others; all may import errors.
MAY_IMPORT = {
    "errors": set(),
    "options": set(),
    "types": set(),
    "examples": {"types"},
    "caching": set(),
    "versions": set(),
    "hubs": {"types"},
    "stopping": set(),
    "progress": {"stopping"},
    "outputs": {"types", "writing"},
    "writing": {"types"},
    "locking": {"types", "writing"},
    "checkpoints": {"types", "writing"},
    "whole": set(),
    "opening": {"types", "whole"},
    "manifest": {"types", "opening", "writing"},
    "loading": {"hubs", "opening"},
    "ops": {"options", "types", "caching"},
    "losses": {"types", "caching", "ops"},
    "metrics": {"types", "caching", "ops"},
    "models": {"options", "types", "caching", "hubs", "ops"},
    "flow": {"types", "caching", "opening", "writing", "outputs", "hubs", "ops"},
    "data": {
        *("options", "types", "examples", "caching", "opening", "ops"),
        *("writing", "outputs", "manifest", "progress"),
    },
    "callbacks": {"types", "caching", "opening", "writing", "outputs", "manifest", "stopping"},
    "module": {"options", "types", "outputs", "loading", "models"},
    "segmentation": {"options", "types", "ops", "losses", "metrics", "models", "flow", "loading", "module"},
    "refinement": {
        *("options", "types", "examples", "caching", "writing", "outputs", "ops", "losses", "metrics", "models"),
        *("flow", "loading", "module", "segmentation"),
    },
    "propagation": {
        *("options", "types", "caching", "opening", "ops", "metrics", "models", "flow"),
        *("loading", "module", "segmentation", "refinement"),
    },
    "selftraining": {"types", "ops", "losses", "metrics", "models", "segmentation"},
}
SEES_ALL = {"pipeline", "commands", "cli", "lightning_cli", "__main__", "__init__"}
LIGHTNING = {"pytorch_lightning", "lightning"}
USES_LIGHTNING = {
    *("checkpoints", "loading", "module", "segmentation", "refinement", "propagation", "selftraining"),
    *("callbacks", "pipeline", "commands", "cli", "lightning_cli"),
}
DATA_MODULES = ("loaders.py", "segmentation.py", "semisupervised.py")
MODULES = {"module", "segmentation", "refinement", "propagation", "selftraining"}


def home(path: Path) -> str:
    """The part of the package to which a source file belongs."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of all modules that a source file imports anywhere, in functions too."""
    names = set()
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            # `from wrp import types` imports wrp.types
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == "wrp" else {base}
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def parts_imported(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("wrp.")}
    return names - {home(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_in_the_directions_of_the_design(path: Path) -> None:
    part = home(path)
    assert part in MAY_IMPORT or part in SEES_ALL, f"{part} has no place in the design"
    if part in MAY_IMPORT:
        assert parts_imported(path) <= MAY_IMPORT[part] | {"errors"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lightning_stays_in_its_rooms(path: Path) -> None:
    uses = {name.split(".")[0] for name in imported(path)} & LIGHTNING
    assert not uses or home(path) in USES_LIGHTNING or path.name in DATA_MODULES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_albumentations_stays_behind_one_module(path: Path) -> None:
    assert "albumentations" not in imported(path) or path == ROOT / "data" / "transforms.py"


def test_modules_and_data_never_import_each_other() -> None:
    for path in SOURCES:
        others = {"data"} if home(path) in MODULES else MODULES if home(path) == "data" else set()
        assert not parts_imported(path) & others, path


def test_nothing_but_the_entry_point_imports_the_command_line() -> None:
    for path in SOURCES:
        if home(path) not in ("__main__", "cli", "lightning_cli"):
            assert not parts_imported(path) & {"cli", "lightning_cli"}, path


def test_the_checks_see_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path / "wrp")
    source = tmp_path / "wrp" / "ops" / "bad.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import wrp.models.refiner\nfrom wrp import losses\nfrom ..metrics import masks\nfrom .warp import warp\n"
        "from wrp.flow.dis import DIS\nimport lightning.pytorch\n"
        "def late():\n    import_module('wrp.data.clips')\n    from wrp.pipeline import report\n"
    )
    assert parts_imported(source) == {"models", "losses", "metrics", "flow", "data", "pipeline"}
    assert "lightning.pytorch" in imported(source)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_longer_than_a_room(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_loads_no_framework() -> None:
    heavy = {"torch", "torchvision", "pytorch_lightning", "lightning", "cv2", "numpy", "albumentations", "wandb"}
    assert not loaded_by("import wrp") & heavy


def test_help_waits_for_no_framework() -> None:
    heavy = {"torch", "torchvision", "pytorch_lightning", "lightning", "cv2", "albumentations", "wandb"}
    assert not loaded_by("from wrp.cli import _parser; _parser().format_help()") & heavy


def test_labelling_by_motion_waits_for_no_library_of_training() -> None:
    training = {"albumentations", "timm", "segmentation_models_pytorch"}
    assert not loaded_by("import wrp.commands.autolabel, wrp.pipeline.autolabel") & training


def test_networks_and_operators_serve_people_without_lightning() -> None:
    modules = [p for p in SOURCES if home(p) in ("types", "ops", "flow", "models", "losses")]
    statement = "\n".join(f"import {module_name(path)}" for path in modules)
    assert not loaded_by(statement) & LIGHTNING


def test_every_public_name_can_be_had() -> None:
    for name in wrp.__all__:
        assert getattr(wrp, name).__name__ == name
        assert name in dir(wrp)
    with pytest.raises(AttributeError, match="module 'wrp' has no attribute 'nothing'"):
        _ = wrp.nothing


MOST_ARGUMENTS = 12


def own_arguments(called: Any) -> list[str]:
    """The arguments that a call takes by name, without those that it hands on."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(called).parameters.values()
    return [one.name for one in found if one.kind not in kinds and one.name != "self"]


def public_calls() -> dict[str, Any]:
    """What is called by whoever uses the package: public names, groups of arguments, modules of self-training."""
    found = {name: getattr(wrp, name) for name in wrp.__all__}
    for name in ("wrp.options", "wrp.pipeline.config"):
        module = import_module(name)
        found |= {key: one for key, one in vars(module).items() if isinstance(one, type) and one.__module__ == name}
    for path in sorted((ROOT / "selftraining").glob("*.py")):
        module = import_module(module_name(path))
        own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        found |= {one.__name__: one for one in own if issubclass(one, wrp.SegmentationModule)}
    return found


def test_no_public_call_takes_more_arguments_than_one_can_keep_in_mind() -> None:
    calls = public_calls()
    assert {"SegmentationModule", "NetworkArgs", "TeacherArgs", "Settings", "CiscModule", "autolabel"} <= set(calls)
    for name, called in calls.items():
        # A class by its constructor, not by the signature that Lightning's metaclasses may give it.
        given = own_arguments(called.__init__ if isinstance(called, type) else called)
        assert len(given) <= MOST_ARGUMENTS, f"{name} takes {len(given)} arguments, at most {MOST_ARGUMENTS}: {given}"
