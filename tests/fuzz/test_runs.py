"""Runs of which any file is damaged: a command uses what is left as it was made, or says on one line what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import make_folder
from tests.fuzz.damage import altered, damaged
from wrp.cli.main import main
from wrp.io.label_map import read_ids

METHODS = ["--methods=copy,motion", "--label-every=4"]
COMMANDS = {
    "resume": ["autolabel", "data", "--out=run", *METHODS],
    "continue": ["autolabel", "data", "--out=next", "--continue=run", *METHODS],
    "report": ["report", "run"],
    "suggest": ["suggest", "run"],
    "accept": ["suggest", "run", "--accept=0.9"],
    "simulate": ["suggest", "run", "--simulate"],
    "export": ["export", "run", "--format=voc", "--images=none", "--out=exported", "--min-confidence=0.5"],
    "plan": ["autolabel", "data", "--out=run", "--dry-run", *METHODS],
}
PICTURES = ("labels", "methods", "confidence", "provenance")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a finished run."""
    folder = tmp_path_factory.mktemp("made")
    make_folder(folder / "data", {"walk": 9})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(COMMANDS["resume"]) == 0
    return folder


def pixels(run: Path) -> dict[str, bytes]:
    """The values of all pictures of a run, by name."""
    paths = [path for kind in PICTURES for path in sorted((run / kind).rglob("*.png"))]
    return {str(path.relative_to(run)): np.ascontiguousarray(read_ids(path)[0]).tobytes() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=20)  # each runs a command
@given(data=st.data())
def test_a_run_with_a_damaged_file_is_used_or_refused(
    made: Path, tmp_path: Path, command: str, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data", "run", "next", "exported"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.copytree(made / "data", tmp_path / "data")
    shutil.copytree(made / "run", tmp_path / "run")
    names = sorted(str(path.relative_to(made)) for path in (made / "run").rglob("*") if path.stat().st_size)
    name = data.draw(st.sampled_from([name for name in names if (made / name).is_file()]))
    whole = (made / name).read_bytes()
    change = damaged(whole) | st.binary(max_size=40)
    tampered = False
    if name.endswith(".json") and data.draw(st.booleans()):
        change, tampered = altered(json.loads(whole)).map(lambda content: json.dumps(content).encode()), True
    (tmp_path / name).write_bytes(data.draw(change))
    code = main(COMMANDS[command])
    error = capsys.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in error
    if code == 2:
        assert len([line for line in error.splitlines() if line.startswith("wrp: error: ")]) == 1
    elif command == "resume" and not tampered:
        assert pixels(tmp_path / "run") == pixels(made / "run")
        assert (tmp_path / "run/manifest.jsonl").read_bytes() == (made / "run/manifest.jsonl").read_bytes()
