"""Two real processes on the CPU."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.clips import make_folder
from wrp.cli.main import main


def predict(root: Path, out: Path, processes: int) -> None:
    command = ["predict", "--model=PropagationModule", "--model.methods=[motion]"]
    command += ["--data=PropagationData", "--data.num_classes=3", f"--data.root={root}"]
    command += ["--trainer.accelerator=cpu", f"--trainer.devices={processes}", "--trainer.logger=false"]
    command += [f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}", "--return_predictions=false"]
    command += ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={out}"]
    if processes == 1:
        assert main(command) == 0
    else:
        start(["-m", "wrp", *command], out.parent)


def start(command: list[str], folder: Path) -> None:
    """Start Python in a process of its own, and wait for its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [sys.executable, *command]
    run = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [(0, 1, 3, 4, 5, 6, 7), (4,)], ids=["seven intervals", "two intervals"])
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


FIT = """
import sys, torch, pytorch_lightning as pl
from torch import nn
from wrp import SegmentationData, SegmentationModule
from wrp.segmentation.losses import SegmentationLoss
from wrp.options import OptimizerArgs, SamplingArgs, SelectArgs

root, out, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
losses = {"cross_entropy": 1.0, "dice": 1.0, "ohem": 0.0, "relaxation": 0.5, "focal": 0.2}
module = SegmentationModule(3, net=nn.Conv2d(3, 3, 3, padding=1), loss=SegmentationLoss(losses, {"balance": 0.5}),
                            optimizer=OptimizerArgs("sgd", lr=0.5))
# Crops larger than the frames: each has another number of labelled pixels.
data = SegmentationData(3, root, select=SelectArgs(label_every=2),
                        sampling=SamplingArgs((48, 64), batch_size=4 // processes, epoch_length=16))
trainer = pl.Trainer(max_steps=4, accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
                     logger=False, enable_checkpointing=False, limit_val_batches=0, enable_progress_bar=False)
trainer.fit(module, data)
[scores] = trainer.test(module, data)
if trainer.is_global_zero:
    torch.save({"scores": scores, "weights": module.state_dict()}, out)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss divides by the pixels of all processes, and the scores count no frame twice, also of an odd number."""
    root = make_folder(tmp_path / "clips", {"walk": 11})
    (tmp_path / "fit.py").write_text(FIT)
    monkeypatch.setattr("sys.argv", ["fit.py", str(root), "1.pt", "1"])
    runpy.run_path("fit.py")
    start(["fit.py", str(root), "2.pt", "2"], tmp_path)
    one, two = (torch.load(tmp_path / f"{processes}.pt", weights_only=True) for processes in (1, 2))
    assert one["scores"].keys() == two["scores"].keys()
    for key, value in one["scores"].items():
        assert two["scores"][key] == pytest.approx(value, abs=1e-5, nan_ok=True), key
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weights, rtol=0, atol=1e-5)
