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
    "autolabel clips --teacher no.ckpt": "there is no checkpoint no.ckpt",
    "autolabel nowhere --teacher clips/classes.yaml": "there is no file or folder nowhere",
    "demo --out val.txt": "val.txt is a file, expected a folder",
    "demo --seed -1": "--seed must be in 0 … 4294967295, got -1",
    "init new nowhere.mp4": "there is no file or folder nowhere.mp4",
    "init new clips/classes.yaml": "clips/classes.yaml is no video that can be read",
    "predict-images no.ckpt nowhere --out out": "there is no file or folder nowhere",
    "predict-images no.ckpt clips --out out": "there is no checkpoint no.ckpt",
    "predict-images clips clips --out out": "clips is no folder of a run of `wrp autolabel`",
    "predict-images clips/classes.yaml clips --out clips": "clips, which is read from; choose another",
    "predict-images clips/classes.yaml clips --classes no.yaml --out out": "there is no no.yaml",
    "predict-images clips/classes.yaml clips/classes.yaml --out out": "clips/classes.yaml cannot be read as a video",
    "export-model no.ckpt --format onnx": "there is no checkpoint no.ckpt",
    "export-model clips --format onnx": "clips is no folder of a run of `wrp autolabel`",
    "export-model clips/classes.yaml --format onnx --out net.pt": "--out net.pt must end in .onnx",
    "export-model clips/classes.yaml --format onnx --classes no.yaml": "there is no no.yaml",
    "weights no.ckpt": "there is no checkpoint no.ckpt",
    "export nowhere --format coco --out out": "there is no nowhere/settings.json",
    "export clips --format cocoo --out out": "unknown format 'cocoo'; did you mean coco?",
    "import nowhere --format cocoo --into clips --frames list": "unknown format 'cocoo'; did you mean coco?",
    "import nowhere --format coco --into clips --changed-from clips": "there is no clips/settings.json",
    "fit --config no.yaml": "there is no file no.yaml, which --config names",
    "predict --ckpt_path=no.ckpt": "there is no checkpoint no.ckpt",
    "rectify clips": "there is no clips/wrp.json of a run",
    "report clips": "there is no clips/wrp.json of a run",
    "search no.yaml --out out": "no.yaml cannot be read",
    "suggest clips": "there is no clips/wrp.json of a run",
    **{
        f"selftrain {given} --val val.txt --out out": said
        for given, said in {
            "sst images --labelled a.txt --unlabelled a.txt": "unknown system 'sst'; did you mean st?",
            "st nowhere --labelled a.txt --unlabelled a.txt": "there is no folder nowhere",
            "st clips --labelled a.txt --unlabelled a.txt --steps 1": "--steps must be in 3 … 2147483647, got 1",
            "st clips --labelled a.txt --unlabelled a.txt": "a.txt cannot be read",
            "st clips --labelled val.txt --unlabelled a.txt": "val.txt lists no images; list at least one",
            "st clips --labelled classes.txt --unlabelled a.txt": "classes.txt: there is no image clips/images/road",
            "st clips --labelled a.txt --unlabelled a.txt --layout vocc": "unknown layout 'vocc'; did you mean voc?",
            "st clips --labelled a.txt --unlabelled a.txt --supervised no.ckpt": "there is no checkpoint no.ckpt",
        }.items()
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clip, one of whose two labels shows an unknown class."""
    root = make_folder(tmp_path / "clips", {"walk": 4}, labelled=(0, 3))
    Image.new("L", Image.open(root / "labels/walk/00003.png").size, 5).save(root / "labels/walk/00003.png")
    (tmp_path / "val.txt").touch()
    (tmp_path / "classes.txt").write_text("road\n")
    return root


@pytest.mark.usefixtures("root")
def test_a_mistake_is_told_without_waiting_for_torch() -> None:
    code = f"""
import sys
from wrp.cli.main import main
for mistake in {list(MISTAKES)}:
    assert main([*mistake.split(), *(["--out", "out", "--dry-run"] if mistake[0] == "a" else [])]) == 2, mistake
    assert not {{"torch", "pytorch_lightning"}} & set(sys.modules), mistake
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    lines = [line for line in told.stderr.splitlines() if line.startswith("wrp: error: ")]
    for line, said in zip(lines, MISTAKES.values(), strict=True):
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
    assert open_early(Settings(str(root), "out", teacher=str(root / "classes.yaml"))) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_early(Settings(str(root), "out")) is None
