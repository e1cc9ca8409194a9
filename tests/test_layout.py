"""Who may import whom, and what an import may load: the house rules of the package, read from its sources."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import wrp

ROOT = Path(wrp.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

# The rooms in two rows, one upon the other: each may import all that stands before it in its row, and `SEE` besides.
GROUND = ["errors", "options", "structures"]
READS = [*GROUND, "io", "geometry", "metrics", "flow", "data"]  # io and geometry do not know each other
COMPUTES = [*READS[:-1], "module", "segmentation", "refinement", "propagation", "selftraining"]
ABOUT_RUNS = ("report", "exchange", "suggest")  # they read what a run has written, and do not know each other
USES = ["callbacks", "runs", "cli"]

MAY_IMPORT: dict[str, set[str]] = {
    **{room: set(GROUND[:number]) for number, room in enumerate(GROUND)},
    **{
        room: set(READS[:number]) - {"io" if room == "geometry" else "geometry" if room == "io" else ""}
        for number, room in enumerate(READS)
        if room not in GROUND
    },
    **{room: set(COMPUTES[:number]) for number, room in enumerate(COMPUTES) if room not in READS},
    **dict.fromkeys(ABOUT_RUNS, {*GROUND, "io", "geometry", "metrics", "data"}),
    "callbacks": set(READS),
    "runs": {*READS, *COMPUTES, *ABOUT_RUNS, "callbacks"},
    "cli": {*READS, *COMPUTES, *ABOUT_RUNS, "callbacks", "runs"},
    "testing": {*READS, *COMPUTES, *ABOUT_RUNS, "callbacks"},
    "lazy": set(),
}
ENTRY = {"__main__", "__init__"}
LIGHTNING = {"pytorch_lightning", "lightning"}
USES_LIGHTNING = {"module", "selftraining", "callbacks", "runs", "cli"}
SHELLS = {"segmentation", "refinement", "propagation"}  # Lightning stands in their module.py alone
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
    """Full names of all modules that a source file imports anywhere, in functions too, but for types alone."""
    names = set()
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in _run_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            # `from wrp import flow` imports wrp.flow
            names |= {_module_of(base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree, but for blocks that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _run_nodes(node)


def _module_of(base: str, name: str) -> str:
    """The module that `from base import name` loads: `base`, or `base.name` where that is one."""
    place = Path(wrp.__file__).parent.parent.joinpath(*base.split("."))
    is_module = (place / f"{name}.py").is_file() or (place / name).is_dir()
    return f"{base}.{name}" if base.startswith("wrp") and is_module else base


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def parts_imported(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("wrp.")}
    return names - {home(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_in_the_directions_of_the_design(path: Path) -> None:
    part = home(path)
    assert part in MAY_IMPORT or part in ENTRY, f"{part} has no place in the design"
    if part in MAY_IMPORT:
        assert parts_imported(path) <= MAY_IMPORT[part] | {"lazy"}


def test_no_imports_go_in_a_circle() -> None:
    files = {module_name(path): path for path in SOURCES}
    edges = {name: {one for one in imported(path) if one in files and one != name} for name, path in files.items()}
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, [*way, name])
            done.add(name)

    for name in files:
        visit(name, [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lightning_stays_in_its_rooms(path: Path) -> None:
    uses = {name.split(".")[0] for name in imported(path)} & LIGHTNING
    shell = home(path) in SHELLS and path.name == "module.py"
    assert not uses or home(path) in USES_LIGHTNING or shell or (home(path) == "data" and path.name in DATA_MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_albumentations_stays_behind_one_module(path: Path) -> None:
    assert "albumentations" not in imported(path) or path == ROOT / "data" / "transforms.py"


def test_the_checks_see_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path / "wrp")
    source = tmp_path / "wrp" / "geometry" / "bad.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import wrp.refinement.network\nfrom wrp import flow\nfrom ..metrics import masks\nfrom .warp import warp\n"
        "from wrp.segmentation import losses\nimport lightning.pytorch\nif TYPE_CHECKING:\n    import wrp.cli.main\n"
        "def late():\n    import_module('wrp.data.index')\n    from wrp.runs import stage\n"
    )
    assert parts_imported(source) == {"refinement", "flow", "metrics", "segmentation", "data", "runs"}
    assert {"lightning.pytorch", "wrp.segmentation.losses", "wrp.metrics.masks"} <= imported(source)


def test_no_test_module_imports_another() -> None:
    tests = sorted(Path(__file__).parent.rglob("test_*.py"))
    assert len(tests) > 80
    for path in tests:
        others = re.findall(r"^\s*(?:from|import) (tests(?:\.\w+)*\.test_\w+)", path.read_text(encoding="utf-8"), re.M)
        assert not others, path


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
    assert not loaded_by("from wrp.cli.main import _parser; _parser().format_help()") & heavy


def test_exports_and_imports_need_no_torch() -> None:
    assert not loaded_by("import wrp.exchange.export, wrp.exchange.importing") & {"torch", *LIGHTNING}


def test_labelling_by_motion_waits_for_no_library_of_training() -> None:
    training = {"albumentations", "timm", "segmentation_models_pytorch"}
    assert not loaded_by("import wrp.cli.autolabel, wrp.runs.autolabel") & training


def test_networks_and_operators_serve_people_without_lightning() -> None:
    rooms = ("structures", "options", "errors", "io", "geometry", "metrics", "flow", "report", "exchange", "suggest")
    modules = [
        p for p in SOURCES if home(p) in rooms or (home(p) in SHELLS and p.name not in ("module.py", "sampler.py"))
    ]
    statement = "\n".join(f"import {module_name(path)}" for path in modules)
    assert not loaded_by(statement) & LIGHTNING


PACKAGES = [module_name(path) for path in SOURCES if path.name == "__init__.py"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_can_be_had(name: str) -> None:
    package = import_module(name)
    assert package.__doc__
    folder = ROOT.parent.joinpath(*name.split("."))
    for public in getattr(package, "__all__", ()):
        assert getattr(package, public) is not None
        assert public in dir(package)
        assert not (folder / f"{public}.py").exists(), "a name that may mean a module or what is in it"
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("name", PACKAGES)
def test_a_type_checker_sees_the_names_that_are_imported_late(name: str) -> None:
    source = (ROOT.parent.joinpath(*name.split(".")) / "__init__.py").read_text(encoding="utf-8")
    if "lazy(" not in source:
        return
    seen: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If):
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                seen |= {alias.name: str(line.module) for alias in line.names}
        elif isinstance(node, ast.Dict):
            keys, values = (
                [ast.literal_eval(one) for one in part if one is not None] for part in (node.keys, node.values)
            )
            late = {key: f"{name}.{value}" for key, value in zip(keys, values, strict=True)}
    assert seen == late
    assert sorted(late) == import_module(name).__all__


WITH_EXAMPLES = ("geometry", "flow", "metrics", "segmentation/losses.py", "segmentation/rmi.py")
# One downloads, two are made of the files of a run.
WITHOUT = {"PTLFlow", "Costs", "Run"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_classes_and_functions_have_an_example(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    kinds = (ast.ClassDef, ast.FunctionDef) if place.startswith(WITH_EXAMPLES) else (ast.ClassDef,)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    lacking = [node.name for node in public if ">>> " not in (ast.get_docstring(node) or "")]
    assert not set(lacking) - WITHOUT - TESTERS


TESTERS = {"FlowEstimatorTester", "LayoutTester", "PropagationMethodTester"}  # theirs are in their own tests


def rooms() -> dict[str, str]:
    """The first sentence about each room, in the order of the design."""
    files = {room: (ROOT / f"{room}.py", ROOT / room / "__init__.py") for room in MAY_IMPORT}
    found = {room: next(path for path in paths if path.is_file()) for room, paths in files.items()}
    docs = {room: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for room, path in found.items()}
    return {room: (doc or "").split("\n")[0].rstrip(".") for room, doc in docs.items()}


def rooms_table() -> str:
    """The rooms, what they hold, whom they may import, and how many lines they have, as Markdown."""
    rows = []
    for room, doc in rooms().items():
        lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES if home(p) == room)
        may = ", ".join(one for one in MAY_IMPORT if one in MAY_IMPORT[room]) or "–"
        rows.append(f"| `{room}` | {doc} | {may} | {round(lines, -1)} |")
    header = ["| room | what is in it | may import | lines |", "|---|---|---|---:|"]
    return "\n".join([*header, *rows])


ARCHITECTURE = ROOT.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: python -m tests.test_layout -->\n", "\n\n<!-- end -->"


def without_lines(table: str) -> list[str]:
    return [row.rsplit("|", 2)[0] for row in table.splitlines()]


def test_the_page_on_architecture_is_that_of_the_sources() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    written = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert without_lines(written) == without_lines(rooms_table()), "run `python -m tests.test_layout`"


def test_every_room_has_its_page_of_the_api() -> None:
    pages = {path.stem for path in (ROOT.parent / "docs" / "api").glob("*.md")}
    assert pages == set(MAY_IMPORT)


MOST_ARGUMENTS = 12


def own_arguments(called: Any) -> list[str]:
    """The arguments that a call takes by name, without those that it hands on."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(called).parameters.values()
    return [one.name for one in found if one.kind not in kinds and one.name != "self"]


def public_calls() -> dict[str, Any]:
    """What is called by whoever uses the package: public names, groups of arguments, modules of self-training."""
    found = {name: getattr(wrp, name) for name in wrp.__all__}
    for name in ("wrp.options", "wrp.runs.config"):
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


if __name__ == "__main__":  # write the table into the page
    page = ARCHITECTURE.read_text(encoding="utf-8")
    head, tail = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    ARCHITECTURE.write_text(head + rooms_table() + tail, encoding="utf-8")
