"""What strangers' files may not do."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wrp.cli import main

EVIL = """
from pathlib import Path
import pytorch_lightning as pl
Path("ran").touch()
class Module(pl.LightningModule):
    pass
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wrp", "fit", *arguments, "--data=VideoDataModule", "--data.num_classes=10"]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **environment}
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "environment", "ran"),
    [
        (["--safe"], {}, False),
        (["--safe"], {"WRP_SAFE": ""}, False),
        ([], {"WRP_SAFE": "other, another"}, False),
        ([], {"WRP_SAFE": "evil"}, True),
        ([], {}, True),
    ],
)
def test_a_configuration_imports_what_is_allowed(
    flags: list[str], environment: dict[str, str], ran: bool, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    done = run(tmp_path, *flags, "--model=evil.Module", "--print_config", **environment)
    assert (tmp_path / "ran").exists() == ran
    assert done.returncode == (0 if ran else 2)
    assert ("Importing 'evil.Module' is not allowed" in done.stderr) != ran


@pytest.mark.parametrize("value", ["0", "evil,no name", "evil..x"])
def test_a_value_that_is_no_name_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_SAFE", value)
    assert main(["fit", "--model=SegmentationModule"]) == 2
    assert "expected 1, or names of packages" in capsys.readouterr().err


def test_no_function_is_handed_to_a_callback(tmp_path: Path) -> None:
    callback = ["--trainer.callbacks=LambdaCallback", "--trainer.callbacks.on_fit_start=torch.hub.load"]
    done = run(tmp_path, "--safe", "--model=SegmentationModule", *callback, "--print_config")
    assert done.returncode == 2
    assert "Importing 'torch.hub.load' is not allowed" in done.stderr


def test_our_own_classes_are_allowed(tmp_path: Path) -> None:
    done = run(tmp_path, "--safe", "--model=wrp.RefinementModule", "--model.flow=wrp.flow.dis.DIS", "--print_config")
    assert done.returncode == 0, done.stderr
    assert "wrp.flow.dis.DIS" in done.stdout


OWN = """
from pathlib import Path
from torch import nn
from wrp import SegmentationModule
Path("ran").touch()
class Module(SegmentationModule):
    def configure_network(self):
        return nn.Conv2d(3, self.num_classes, 1)
"""


@pytest.mark.slow
def test_a_module_of_ones_own_comes_back_where_its_package_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    assert main(["data", "synthetic", str(tmp_path / "scene"), "--frames=5", "--size=64x48"]) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    def done(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "wrp", *command]
        return subprocess.run(line, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True)

    data = ["--data=VideoDataModule", "--data.num_classes=10", "--data.root=scene", "--data.crop_size=[32,32]"]
    steps = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
    fitted = done("fit", "--model=own.Module", *data, *steps)
    assert fitted.returncode == 0, fitted.stderr
    [checkpoint] = tmp_path.rglob("*.ckpt")

    label = ["autolabel", "scene", "--label-every=4", "--methods=semantic", f"--teacher={checkpoint}"]
    trusted = done(*label, "--out=trusted", WRP_SAFE="own")
    assert trusted.returncode == 0, trusted.stderr
    (tmp_path / "ran").unlink()
    refused = done(*label, "--out=refused", WRP_SAFE="another")
    assert refused.returncode == 2
    assert "holds a own.Module" in refused.stderr
    assert "WRP_SAFE names it" in refused.stderr
    assert not (tmp_path / "ran").exists()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("flag", ["--teacher", "--refiner"])
def test_a_checkpoint_runs_nothing(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "synthetic", "scene", "--frames=5", "--size=64x48"]) == 0
    torch.save({"state_dict": {}, "bomb": Bomb()}, "evil.ckpt")
    command = ["autolabel", "scene", "--out=out", "--label-every=4", "--weights=none", "--teacher-steps=1"]
    assert main([*command, "--refiner-steps=1", flag, "evil.ckpt"]) == 2
    assert "evil.ckpt cannot be read as a checkpoint" in capsys.readouterr().err
    assert not Path("ran").exists()
    with open("evil.ckpt", "rb") as file, pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)  # it is the bomb that is refused
