"""What two processes log of one training: means and sums over both, and no warnings."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import make_folder

SCRIPT = """
import json, sys, torch, pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from wrp import PropagationData, PropagationModule, SegmentationData, SegmentationModule
from wrp.options import OptimizerArgs, SamplingArgs, SelectArgs

class Logged(SegmentationModule):
    def log_loss(self, loss, batch_size):
        losses.append(float(loss.detach()))
        super().log_loss(loss, batch_size)

root, losses, select = sys.argv[1], [], SelectArgs(label_every=4)
torch.manual_seed(0)
module = Logged(3, net=nn.Conv2d(3, 3, 3, padding=1), optimizer=OptimizerArgs("sgd", lr=0.1))
frames = SegmentationData(3, root, select=select, sampling=SamplingArgs((32, 32), batch_size=2, epoch_length=8))
trainer = pl.Trainer(max_steps=2, accelerator="cpu", devices=2, strategy="ddp", logger=CSVLogger("logs", version=0),
                     enable_checkpointing=False, enable_progress_bar=False, log_every_n_steps=1)
trainer.fit(module, frames)
trainer.test(module, frames, verbose=False)
propagation = PropagationModule(3, ["motion"], flow="dis-fast", calibration="auto")
trainer.validate(propagation, PropagationData(3, root, select=select), verbose=False)
with open(f"{trainer.global_rank}.json", "w") as file:
    json.dump({"losses": losses, "calibration": repr(propagation.calibration)}, file)
"""


@pytest.mark.slow
def test_two_processes_log_means_without_warnings(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 13})
    (tmp_path / "fit.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "fit.py", str(root)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "sync_dist" not in run.stderr
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one["losses"] != other["losses"]
    assert one["calibration"] == other["calibration"] != "{}"
    with (tmp_path / "logs/lightning_logs/version_0/metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert logged == pytest.approx([sum(both) / 2 for both in zip(one["losses"], other["losses"], strict=True)])
    for name in ("val/miou", "val/iou_road", "test/miou", "test/iou_sky", "val/motion/miou"):
        assert any(row[name] for row in rows), name
