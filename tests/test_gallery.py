"""The scripts of the gallery run, are short, and are on its page."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("*.py"))
EXTRAS = {"sweep": "optuna", "export_onnx": "onnxruntime"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all scripts, so that the scene is made once."""
    return tmp_path_factory.mktemp("gallery")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_runs(
    script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script.stem in EXTRAS:
        pytest.importorskip(EXTRAS[script.stem])
    monkeypatch.chdir(folder)
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_scripts_are_short_and_shown() -> None:
    page = (GALLERY.parent / "gallery.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) == 10
    for script in SCRIPTS:
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 40, script.name
        assert f"```{{literalinclude}} gallery/{script.name}\n" in page, script.name
