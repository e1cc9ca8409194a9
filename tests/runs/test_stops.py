"""What ends a run before its time, and what is left then."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.clips import make_folder
from tests.forked import Forked
from wrp import CycleExamples, RefinementData, RefinementModule, SegmentationData, SegmentationModule
from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.io.writing import replacing, write_json
from wrp.options import RefinerArgs, SamplingArgs, SelectArgs

MOTION = ["--label-every", "4", "--methods=motion"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"ride": 9, "walk": 9}, labelled=range(9))


def test_a_broken_clip_is_skipped_if_asked_for_and_done_when_it_is_mended(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(root), f"--out={out}", *MOTION]
    frame = sorted((root / "frames" / "ride").iterdir())[2]
    whole = frame.read_bytes()
    frame.write_bytes(whole[: len(whole) // 2])
    assert main(command) == 2
    assert str(frame) in capsys.readouterr().err
    assert not list(out.rglob("*.png"))
    assert main([*command, "--on-error", "skip"]) == 3
    printed = capsys.readouterr()
    assert f"skipped ride: {frame}" in printed.out
    assert f"Skipping clip ride: {frame}" in printed.err or "skipped ride" in printed.out
    assert [path.name for path in (out / "labels").iterdir()] == ["walk"]
    assert list(json.loads((out / "metrics.json").read_text())["skipped"]) == ["ride"]
    assert main(["report", str(out)]) == 0  # of the clip that is there
    frame.write_bytes(whole)
    assert main([*command, "--on-error", "skip"]) == 0
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["ride", "walk"]
    assert "skipped" not in json.loads((out / "metrics.json").read_text())


def test_nothing_but_broken_clips_is_an_error(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for clip in ("ride", "walk"):
        (root / "frames" / clip / "00000.png").write_bytes(b"")
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--on-error=skip", *MOTION]) == 2
    assert "every clip of" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_says_so_and_resumes(
    number: signal.Signals, code: int, root: Path, tmp_path: Path
) -> None:
    command, out = ["autolabel", str(root), *MOTION], tmp_path / "out"
    assert main([*command, f"--out={tmp_path / 'whole'}"]) == 0
    process, deadline = Forked([*command, f"--out={out}"]), time.monotonic() + 300
    while not list(out.glob("labels/*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    done = process.wait(120)
    if done.returncode:  # else it was done before the signal came
        assert done.returncode == code, done.stderr
        assert "the same command goes on from there" in done.stderr
        assert "Traceback" not in done.stderr
    assert main([*command, f"--out={out}"]) == 0
    assert not list(out.rglob(".*.tmp"))
    for folder in ("labels", "confidence", "provenance"):
        for path in sorted((tmp_path / "whole" / folder).rglob("*.png")):
            assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("sync") or sync(handle))  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or move(*names))  # type: ignore[func-returns-value]
    write_json(tmp_path / "a.json", {})
    assert done == ["sync", "replace", "sync"]
    done.clear()
    with replacing(tmp_path / "b.txt", many=True) as temporary:
        temporary.touch()
    assert done == ["sync", "replace"]


@pytest.mark.parametrize("link", ["labels", "labels/ride", "provenance", "wrp-temporary"])
def test_nothing_is_written_through_a_link(
    link: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    command = ["autolabel", str(root), f"--out={out}", *MOTION]
    assert main([*command, "--limit=0"]) == 0
    if (out / link).is_dir():
        shutil.rmtree(out / link)
    (out / link).parent.mkdir(parents=True, exist_ok=True)
    (out / link).symlink_to(elsewhere)
    assert main(command) == 2
    assert f"{out / link} is a symbolic link" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim.json"
    victim.write_text("mine")
    (tmp_path / "a.json").symlink_to(victim)
    write_json(tmp_path / "a.json", {})
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a.json").is_symlink()


@pytest.mark.parametrize("task", ["segmentation", "refinement"])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_frames(root: Path, task: str) -> None:
    class Segmentation(SegmentationModule):
        def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
            return super().loss(logits, labels, weights) * torch.nan

    class Refinement(RefinementModule):
        def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
            return super().loss(logits, labels) * torch.inf

    data: pl.LightningDataModule
    module: pl.LightningModule
    select = SelectArgs(label_every=4)
    if task == "segmentation":
        data = SegmentationData(3, str(root), select=select, sampling=SamplingArgs((32, 32), 2))
        module = Segmentation(3)
    else:
        data = RefinementData(3, CycleExamples(crops=2, crop_size=(32, 32)), str(root), select=select)
        module = Refinement(3, RefinerArgs(channels=(4, 8)))
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = pl.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(WrpError, match=r"the loss is (nan|inf) at step 0, frames (ride|walk)/000\d"):
        trainer.fit(module, data)
    assert all(torch.equal(*pair) for pair in zip(module.parameters(), weights, strict=True))
