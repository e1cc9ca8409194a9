"""The notebooks run, and show what comes out; `python -m tests.test_notebooks` writes it into them."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """The notebook with what its cells give in a new kernel, without progress bars and log lines."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}, record_timing=False).execute()
    for cell in notebook.cells:
        outputs: list[Any] = []
        for one in cell.get("outputs", ()):
            one.get("data", {}).pop("image/jpeg", None)  # the same picture again
            if "text" in one:
                one.text = one.text.replace(f"{folder}/", "")
            if one.get("name") == "stdout" and outputs and outputs[-1].get("name") == "stdout":
                outputs[-1].text += one.text  # it comes in parts, as it is written
            elif one.get("name") != "stderr":
                outputs.append(one)
        if cell.cell_type == "code":
            cell.outputs = outputs
    notebook.metadata.pop("language_info", None)  # the version of Python
    return notebook


def shown(notebook: Any) -> list[Any]:
    """What stands below each cell, without numbers, which depend on versions; of pictures, that there is one."""
    found = []
    for cell in notebook.cells:
        for one in cell.get("outputs", ()):
            text = one.get("text", "") or one.get("data", {}).get("text/plain", "")
            words = re.sub(r"[\d.,–±-]+|\s+", " ", "".join(text)).split()
            found.append((cell["id"], one.output_type, sorted(one.get("data", {})), words))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_what_its_code_gives(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    for package in ("nbclient", "ipykernel", "av"):
        pytest.importorskip(package)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert shown(executed(path, tmp_path)) == shown(nbformat.read(path, 4)), "run `python -m tests.test_notebooks`"


def test_there_are_notebooks_with_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert [path.stem for path in NOTEBOOKS] == ["first-look", "own-refiner", "own-video"]
    for path in NOTEBOOKS:
        kinds = [kind for _, _, kinds, _ in shown(nbformat.read(path, 4)) for kind in kinds]
        assert "image/png" in kinds, path.name
        assert path.stat().st_size < 500_000


if __name__ == "__main__":  # write what the cells give into the notebooks, or into those that are named
    import nbformat

    os.environ["OMP_NUM_THREADS"] = "1"
    for name in sys.argv[1:] or [path.stem for path in NOTEBOOKS]:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(FOLDER / f"{name}.ipynb", Path(folder)), FOLDER / f"{name}.ipynb")
