"""The image and the conda environment install what setup.cfg wants, from files that there are."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docs" / "install" / "Dockerfile").read_text(encoding="utf-8")
ENVIRONMENT = yaml.safe_load((ROOT / "docs" / "install" / "environment.yml").read_text(encoding="utf-8"))


def settings() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def bounds(name: str) -> str:
    lines = settings()["options"]["install_requires"].split("\n")
    [found] = [line.removeprefix(name) for line in lines if re.match(rf"{name}[<>=]", line)]
    return found


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]  # type: ignore[misc]


def test_versions_of_torch_are_those_of_the_package() -> None:
    conda = dict(re.match(r"([a-z]+)(.*)", one).groups() for one in ENVIRONMENT["dependencies"] if isinstance(one, str))  # type: ignore[union-attr]
    pip = next(shlex.split(run) for kind, run in instructions() if kind == "RUN" and "--index-url" in run)
    assert conda.pop("pytorch") == bounds("torch")
    for name in ("torch", "torchvision"):
        assert f"{name}{bounds(name)}" in pip
    for name in conda.keys() - {"python", "pip"}:
        assert conda[name] == bounds(name), "pip would replace it"
    assert {"torchvision", "numpy", "pillow"} <= conda.keys()
    assert conda["python"].startswith(settings()["options"]["python_requires"])


def test_extras_are_known() -> None:
    known = settings()["options.extras_require"]
    [extras] = [text.partition("=")[2] for kind, text in instructions() if kind == "ARG" and text.startswith("EXTRAS")]
    [path] = ENVIRONMENT["dependencies"][-1]["pip"]
    assert (ROOT / "docs" / "install" / path.partition("[")[0]).resolve() == ROOT
    for extra in (*extras.split(","), *re.findall(r"\[(.*)\]", path)[0].split(",")):
        assert extra in known, extra


def test_the_image_copies_all_that_a_wheel_is_built_from() -> None:
    """Those files, of which test_a_wheel_holds_them builds one."""
    copied = [name for kind, text in instructions() if kind == "COPY" for name in text.split()[:-1]]
    assert sorted(copied) == ["LICENSE", "README.md", "experiments", "setup.cfg", "setup.py", "wrp"]
    assert all((ROOT / name).exists() for name in copied)
    kinds = [kind for kind, _ in instructions()]
    assert kinds[:2] == ["ARG", "FROM"]
    assert kinds[-2:] == ["ENTRYPOINT", "CMD"]


def test_the_image_starts_a_command_of_the_package() -> None:
    [command] = json.loads(dict(instructions())["ENTRYPOINT"])
    scripts = settings()["options.entry_points"]["console_scripts"].split()
    assert scripts[:2] == [command, "="]
    module, _, function = scripts[2].partition(":")
    assert callable(getattr(import_module(module), function))
    assert json.loads(dict(instructions())["CMD"]) == ["--help"]
