"""Two real processes on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import make_folder


def predict(root: Path, out: Path, processes: int) -> None:
    command = [sys.executable, "-m", "wrp", "predict", "--model=PropagationModule", "--model.methods=[motion]"]
    command += ["--data=VideoDataModule", "--data.num_classes=3", f"--data.root={root}", "--data.serve=intervals"]
    command += ["--trainer.accelerator=cpu", f"--trainer.devices={processes}", "--trainer.logger=false"]
    command += [f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}", "--return_predictions=false"]
    command += ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [(0, 3, 5, 8), (4,)], ids=["three uneven intervals", "two intervals"])
def test_two_processes_write_what_one_writes(tmp_path: Path, labelled: tuple[int, ...]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 9}, labelled)
    predict(root, tmp_path / "one", 1)
    predict(root, tmp_path / "two", 2)
    one = files(tmp_path / "one")
    assert len([name for name in one if name.startswith("labels/")]) == 9
    assert one == files(tmp_path / "two")


@pytest.mark.slow
def test_more_processes_than_intervals(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 4}, labelled=(0,))
    predict(root, tmp_path / "two", 2)
    assert len(list((tmp_path / "two" / "labels" / "walk").glob("*.png"))) == 4
