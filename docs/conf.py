"""Configuration of Sphinx: `sphinx-build -W docs OUT`."""

from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import wrp

project = "wrp"
author = "the authors of wrp"
release = version = version_of("wrp")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # notebooks hold their outputs, see tests/test_notebooks.py

html_theme = "furo"
html_title = f"wrp {release}"

# Headings are linked to from other pages.
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# What Lightning's classes document themselves, in a markup of their own, is not repeated here.
autodoc_inherit_docstrings = False


PACKAGE = Path(wrp.__file__).parent


def modules_of(room: str) -> list[str]:
    """Return the names of the public modules of a room, its packages left out: they hold what their modules define."""
    if (PACKAGE / f"{room}.py").is_file():
        return [f"wrp.{room}"]
    files = sorted((PACKAGE / room).rglob("*.py"))
    names = [".".join(("wrp", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]
    return [name for name in names if not name.rpartition(".")[2].startswith("_")]


def setup(app: Any) -> None:
    """Fill in what the sources themselves know.

    Links to the experiments' tables lead to their page here; in the repository they lead to the file. The page of a
    room, ``api/<room>.md``, documents all of its modules.
    """

    def read(_: Any, page: str, source: list[str]) -> None:
        if page != "experiments":  # which includes the file
            source[0] = source[0].replace("../experiments/README.md", "experiments.md")
        if page.startswith("api/"):
            directives = "\n".join(f".. automodule:: {name}" for name in modules_of(page.removeprefix("api/")))
            source[0] += f"\n```{{eval-rst}}\n{directives}\n```\n"

    app.connect("source-read", read)
