"""Who may import whom, and what an import may load: the house rules of the package, read from its sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wrp

ROOT = Path(wrp.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
LONGEST = 330

# The first part of a module's path below wrp, and what it may import of the others; all may import errors.
MAY_IMPORT = {
    "errors": set(),
    "types": set(),
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
    "ops": {"types", "caching"},
    "losses": {"types", "caching", "ops"},
    "metrics": {"types", "caching", "ops"},
    "models": {"types", "caching", "hubs", "ops"},
    "flow": {"types", "caching", "opening", "writing", "outputs", "hubs", "ops"},
    "data": {"types", "caching", "opening", "ops", "writing", "outputs", "progress"},
    "callbacks": {"types", "caching", "opening", "writing", "outputs", "stopping"},
    "modules": {"types", "caching", "opening", "hubs", "outputs", "ops", "losses", "metrics", "models", "flow"},
    "propagation": {"types", "caching", "opening", "ops", "metrics", "models", "flow", "modules"},
    "selftraining": {"types", "caching", "opening", "ops", "losses", "metrics", "models", "flow", "modules"},
}
SEES_ALL = {"pipeline", "commands", "cli", "lightning_cli", "__main__", "__init__"}
LIGHTNING = {"pytorch_lightning", "lightning"}
USES_LIGHTNING = {
    "checkpoints",
    "modules",
    "propagation",
    "selftraining",
    "callbacks",
    "pipeline",
    "commands",
    "cli",
    "lightning_cli",
}


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
    assert not uses or home(path) in USES_LIGHTNING or path.name in ("datamodule.py", "loaders.py", "semi.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_albumentations_stays_behind_one_module(path: Path) -> None:
    assert "albumentations" not in imported(path) or path == ROOT / "data" / "transforms.py"


def test_modules_and_data_never_import_each_other() -> None:
    for path in SOURCES:
        if home(path) in ("modules", "data"):
            assert not parts_imported(path) & ({"modules", "data"} - {home(path)}), path


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
