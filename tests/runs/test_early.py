"""What a run looks at before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clips import make_folder
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.options import SelectArgs
from wrp.runs import early
from wrp.runs.config import RunArgs, Settings
from wrp.runs.early import open_early

# Each mistake, and what is said of it.
MISTAKES = {
    "autolabel nowhere": "there is no file or folder nowhere",
    "autolabel clips --methods motoin": "unknown method 'motoin'; did you mean motion?",
    "autolabel clips --flow dsi": "unknown flow 'dsi'; did you mean dis?",
    "autolabel clips --layout flodre": "unknown layout 'flodre'; did you mean folder?",
    "autolabel clips --student plian": "unknown student 'plian'; did you mean plain?",
    "autolabel clips --labels drawn": "--labels goes with a video or a folder of frames",
    "autolabel clips/frames/walk": "give the folder of its labels by --labels FOLDER",
    "autolabel clips": "labels/walk/00003.png: the label holds ids without a class: 5",
    "data check clips": "clips cannot be used as it is: 1 problem, listed above",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clip, one of whose two labels shows an unknown class."""
    root = make_folder(tmp_path / "clips", {"walk": 4}, labelled=(0, 3))
    Image.new("L", Image.open(root / "labels/walk/00003.png").size, 5).save(root / "labels/walk/00003.png")
    return root


@pytest.mark.usefixtures("root")
def test_a_mistake_is_told_without_waiting_for_torch() -> None:
    code = f"""
import sys
from wrp.cli.main import main
for mistake in {list(MISTAKES)}:
    assert main([*mistake.split(), *(["--out", "out", "--dry-run"] if mistake[0] == "a" else [])]) == 2
assert not {{"torch", "cv2", "pytorch_lightning"}} & set(sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    for line, said in zip(told.stderr.splitlines(), MISTAKES.values(), strict=True):
        assert said in line


def test_a_label_that_the_run_would_not_read_is_left_alone(root: Path) -> None:
    for changes in (
        {"run": RunArgs(on_error="skip")},
        {"run": RunArgs(shard="1/2")},
        {"select": SelectArgs(frames=":3")},
    ):
        assert open_early(Settings(str(root), "out", **changes)) == open_index(root)  # type: ignore[arg-type]


def test_labels_of_another_size_than_their_frame_are_refused(root: Path) -> None:
    Image.new("L", (3, 2)).save(root / "labels/walk/00003.png")
    with pytest.raises(DataError, match=r"00003.png: the label is 3×2 pixels, its frame is"):
        open_early(Settings(str(root), "out"))


def test_processes_that_were_started_together_leave_it_to_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("it was looked at")

    monkeypatch.setattr(early, "open_clips", read)
    assert open_early(Settings(str(root), "out", teacher="teacher.ckpt")) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_early(Settings(str(root), "out")) is None
