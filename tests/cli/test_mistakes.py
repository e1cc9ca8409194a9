"""Mistakes in what the commands are given: one line, exit code 2, and the nearest known name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.clips import make_folder
from wrp import SegmentationData
from wrp.cli.main import main
from wrp.errors import DataError, WrpError

SEGMENTER = ["--model=SegmentationModule", "--data=SegmentationData"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false", "--trainer.max_steps=1"]
QUIET += [
    "--trainer.enable_progress_bar=false",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_checkpointing=false",
]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error; what Lightning says before it is not looked at."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "usage:" not in said
    [line] = [line for line in said.splitlines() if line.startswith("wrp: error: ")]
    assert said.rstrip().endswith(line)
    assert len(line) < 400
    return line


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model=Segmentation"], "--model: there is no class 'Segmentation'; did you mean SegmentationModule?"),
        (["--modle=SegmentationModule"], "unrecognized argument --modle; did you mean --model?"),
        ([*SEGMENTER, "--data.num_clases=3"], "SegmentationData has no argument num_clases; did you mean num_classes?"),
        (
            [*SEGMENTER, "--model.network.encoder=x"],
            "--model.network: NetworkArgs has no argument encoder; did you mean",
        ),
        ([*SEGMENTER, "--model.optimizer.lr=fast"], "--model.optimizer.lr: expected float, got 'fast'"),
        ([*SEGMENTER, "--trainer.callbacks=EarlyStoping"], "no class 'EarlyStoping'; did you mean EarlyStopping?"),
        ([*SEGMENTER, "--ckpt_path=no.ckpt"], "there is no checkpoint no.ckpt"),
        (["--config=no.yaml"], "there is no file no.yaml, which --config names"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line(
    verb: str, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *given]) == 2
    assert said in last_line(capsys)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--trainer.max_step=3"], "unrecognized argument --trainer.max_step; did you mean --trainer.max_steps?"),
        (["--trainer.max_steps=few"], "--trainer.max_steps: expected int, got 'few'"),
        (["--trainer.precision=33"], "--trainer.precision: expected 64, 32, 16 or"),
        (["--trainer.accelerator=gpuu"], "--trainer: You selected an invalid accelerator name"),
        (["--model.net=torch.nn.Convd"], "module 'torch.nn' has no attribute 'Convd'; did you mean Conv3d?"),
        (["--model.net=no_such.Net"], "--model.net: No module named 'no_such'"),
        (["--model.net=wrp.errors.WrpError"], "--model.net: expected a subclass of Module, got 'wrp.errors.WrpError'"),
        (["--model.network.arch=Unett"], "cannot make architecture 'Unett'"),
        (["--data.sampling.crop_size=[3]"], "--data.sampling.crop_size: expected tuple with 2 elements, got '[3]'"),
    ],
)
def test_a_mistake_in_an_argument_is_one_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *SEGMENTER, "--data.num_classes=10", *given]) == 2
    assert said in last_line(capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: {class_path: SegmentationModule}", "--config: there is no modle.class_path; did you mean model?"),
        ("trainer: {max_step: 3}", "--config: there is no trainer.max_step; did you mean trainer.max_steps?"),
        (
            "model: {class_path: SegmentationModule, init_args: {optimiser: {lr: 1}}}",
            "--model: SegmentationModule has no argument optimiser.lr; did you mean optimizer?",
        ),
        (
            "model: {class_path: SegmentationModule, init_arg: {auxiliary: 1}}",
            "no init_arg; did you mean init_args, below",
        ),
        ("trainer: [3", "did not find expected ',' or ']'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fit.yaml").write_text(text)
    assert main(["fit", f"--config={tmp_path / 'fit.yaml'}", "--data=SegmentationData"]) == 2
    assert said in last_line(capsys)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["repot"], "invalid choice: 'repot'; did you mean report? `wrp --help` shows all"),
        (["autolabel", "scnee", "--out=out"], "no file or folder scnee; did you mean scene?"),
        (["data", "check", "chiar.mp4"], "there is no file or folder chiar.mp4; did you mean chair.mp4?"),
        (["data", "check", "in/none.mp4"], "there is no file or folder in/none.mp4"),
        (["report", "--fsp", "3", "out"], "unrecognized argument --fsp; did you mean --fps? `wrp report --help`"),
        (["report", "--fp", "3", "out"], "unrecognized argument --fp; did you mean --fps?"),  # an abbreviation
        (["export", "out"], "the following arguments are required"),
        (["autolabel", "clips", "--out=out", "--method=motion"], "argument --method; did you mean --methods?"),
        (["selftrain", "st", "root", "--labeled=a"], "the following arguments are required: --labelled"),
    ],
)
def test_other_commands_name_the_nearest_option(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WRP_DATA", raising=False)  # else it is named as well
    Path("scene").mkdir()
    Path("chair.mp4").touch()
    assert main(given) == 2
    told = last_line(capsys)
    assert said in told
    assert "WRP_DATA" not in told


class Broken(nn.Module):
    """A network of one's own with a mistake in it."""

    def __init__(self, when: str = "made") -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 3, 1)
        self.when = when
        if when == "made":
            raise KeyError("a programming error")

    def forward(self, images: torch.Tensor) -> Any:
        return self.no_such_thing(images)


class Refused(nn.Module):
    """A network of one's own that tells a mistake."""

    def __init__(self) -> None:
        super().__init__()
        raise WrpError("this network wants four bands")


class Unreadable(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: int) -> Any:
        raise DataError(f"the frame {key} cannot be read")


class UnreadableData(SegmentationData):
    """Data whose loader processes meet a damaged file."""

    def train_dataloader(self) -> Any:
        return DataLoader(Unreadable(), num_workers=1)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(make_folder(tmp_path / "clips", {"walk": 3}))


def fit(root: str, *more: str, data: str = "SegmentationData") -> int:
    return main(["fit", "--model=SegmentationModule", f"--data={data}", f"--data.root={root}", *QUIET, *more])


def test_a_mistake_told_by_a_class_of_ones_own_is_one_line(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(root, f"--model.net={__name__}.Refused") == 2
    assert last_line(capsys) == "wrp: error: this network wants four bands"


def test_a_score_that_nobody_logs_cannot_be_waited_for(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    stopping = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/mIoU"]
    assert fit(root, *stopping, "--trainer.limit_val_batches=1", "--data.val.overlap=true") == 2
    assert "conditioned on metric `val/mIoU`" in last_line(capsys)


def test_a_mistake_met_in_a_loaders_process_is_one_line(root: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert fit(root, data=f"{__name__}.UnreadableData") == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("wrp: error: ")]
    assert line == "wrp: error: the frame 0 cannot be read"


@pytest.mark.parametrize(("when", "kind"), [("made", KeyError), ("run", AttributeError)])
def test_a_programming_error_in_a_class_of_ones_own_keeps_its_traceback(when: str, kind: type, root: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - jsonargparse may raise its own from it
        fit(root, f"--model.net={__name__}.Broken", f"--model.net.when={when}")
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    assert error is not None


def test_what_a_process_sends_as_text_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spawned(_: Any) -> None:
        frames = 'Traceback (most recent call last):\n  File "fit.py", line 3, in run\n'
        raise RuntimeError(f"-- Process 1 terminated:\n{frames}wrp.errors.DataError: clips/a.png is damaged\n")

    monkeypatch.setattr(sys.modules["wrp.cli.main"], "_lightning", spawned)
    assert main(["fit"]) == 2
    assert last_line(capsys) == "wrp: error: clips/a.png is damaged"
