"""Configuration of Sphinx: `sphinx-build -W docs OUT`."""

from importlib.metadata import version as version_of
from typing import Any

project = "wrp"
author = "the authors of wrp"
release = version = version_of("wrp")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"wrp {release}"

# Headings are linked to from other pages.
myst_heading_keyframes = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# What Lightning's classes document themselves, in a markup of their own, is not repeated here.
autodoc_inherit_docstrings = False


def setup(app: Any) -> None:
    """Links to the tables lead to their page here; in the repository they lead to the file."""

    def read(_: Any, page: str, source: list[str]) -> None:
        if page != "experiments":  # which includes the file
            source[0] = source[0].replace("../experiments/README.md", "experiments.md")

    app.connect("source-read", read)
