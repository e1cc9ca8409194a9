"""Examples of two real processes on the CPU."""

from __future__ import annotations

import gc
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clips import make_folder
from wrp.errors import WrpError
from wrp.io.together import together

FIT = """
import json, sys, torch, pytorch_lightning as pl
from pathlib import Path
from tests.refinement.small import Constant
from wrp import CycleExamples, RefinementData, RefinementModule
from wrp.options import KeepArgs, RefinerArgs, ValArgs

root, processes, epochs, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
examples = CycleExamples(flow=Constant(True), crops=4 // processes, crop_size=(12, 20), keep=KeepArgs(folder))
data = RefinementData(3, examples, root, val=ValArgs(ratio=0.4), radius=1, epoch_length=18, workers=processes - 1)
module, seen = RefinementModule(3, RefinerArgs((4, 8))), []

class Look(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, number):
        seen.append(sorted(zip(batch.stems, batch.inputs.image.double().sum((1, 2, 3)).tolist())))
        examples.flow = None  # nothing is made any more

last = Path("last.ckpt")
trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=processes, callbacks=[Look()], logger=False,
                     strategy="ddp" if processes > 1 else "auto", enable_checkpointing=False, num_sanity_val_steps=0)
trainer.fit(module, data, ckpt_path=last if last.exists() else None)
trainer.save_checkpoint(last)
place = str(examples.open_folder()[0])
Path(f"{processes}-{epochs}-{trainer.global_rank}.json").write_text(json.dumps([examples.made, place, seen]))
"""


def fit(folder: Path, root: Path, processes: int, epochs: int, keep: str) -> list[Any]:
    """What each process has made, where, and what it was trained on, step by step."""
    command = ["fit.py", str(root), str(processes), str(epochs), keep]
    if processes == 1:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr("sys.argv", command)
            runpy.run_path("fit.py")
        gc.collect()  # as at the end of a process
    else:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        started = [sys.executable, *command]
        run = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
    return [json.loads((folder / f"{processes}-{epochs}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["kept", ""])
def test_processes_make_each_record_once_and_learn_from_the_batches_of_one(tmp_path: Path, keep: str) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 9}, labelled=(0, 2, 4, 6, 8))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "fit.py").write_text(FIT)
    [alone] = fit(folders[0], root, 1, 2, keep)
    first, second = fit(folders[1], root, 2, 2, keep)
    assert alone[0] == 3 + 2  # keyframes to train and to validate on
    assert sorted((first[0], second[0])) == [2, 3]
    assert first[1] == second[1]
    assert len(alone[2]) == len(first[2]) == len(second[2]) == 2 * 18
    for batch, *parts in zip(alone[2], first[2], second[2], strict=True):
        assert sorted(parts[0] + parts[1]) == batch
        assert len(parts[0]) == len(parts[1]) == 2
    if keep:
        assert len(list((folders[1] / keep).glob("*.cycles"))) == 5
        assert [part[0] for part in fit(folders[1], root, 2, 3, keep)] == [0, 0]  # resumed
    else:
        assert not Path(alone[1]).exists()
        assert not Path(first[1]).exists()


def test_what_fails_in_one_process_fails_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(every: list[Any], mine: Any) -> None:
        every[:] = [mine, theirs]

    monkeypatch.setattr("wrp.io.together.processes", lambda: (2, 0))
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    theirs: Any = (2, None)
    assert together(lambda: 1) == [1, 2]
    theirs = (None, WrpError("theirs"))
    with pytest.raises(WrpError, match="theirs"):
        together(lambda: 1)
