"""Propagation by the Trainer: validation, calibration, and flow by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from tests.clips import make_folder
from wrp import PropagationData, PropagationModule, SegmentationData
from wrp.cli.main import main
from wrp.data.items import HeldOutItems
from wrp.errors import WrpError
from wrp.flow.presets import make_flow
from wrp.options import SelectArgs

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(make_folder(tmp_path / "clips", {"walk": 13}))


def data(root: str, every: int = 4) -> PropagationData:
    return PropagationData(3, root, select=SelectArgs(label_every=every))


def test_a_validation_scores_what_a_test_scores(root: str) -> None:
    module = PropagationModule(3, ["motion", "copy"], flow="dis-fast")
    trainer = pl.Trainer(**QUIET)
    [validated] = trainer.validate(module, data(root), verbose=False)
    [tested] = trainer.test(module, data(root), verbose=False)
    assert 0 < validated["val/copy/miou"] < validated["val/motion/miou"] <= 100
    assert validated == {name.replace("test/", "val/"): score for name, score in tested.items()}


def test_a_test_without_held_out_labels_says_so(root: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "wrp"):
        pl.Trainer(**QUIET).validate(PropagationModule(3, ["copy"]), PropagationData(3, root), verbose=False)
    assert "nothing to score, as no label is held out" in caplog.text


def test_a_prediction_is_calibrated_on_the_keyframes_of_its_data(root: str) -> None:
    flow = make_flow("dis-fast")
    by_hand, fitted = (PropagationModule(3, ["copy"], flow=flow, calibration=how) for how in (None, "auto"))
    clips = data(root)
    by_hand.calibrate(map(HeldOutItems(clips.propagated.clips, clips.label_map).__getitem__, range(2)))
    pl.Trainer(**QUIET).predict(fitted, clips)
    assert fitted.calibration == by_hand.calibration
    assert fitted.calibration["copy"].shift != 0
    # Two keyframes have none between them.
    pl.Trainer(**QUIET).predict(fitted, data(root, every=12))
    assert fitted.calibration == {}


def test_other_data_have_no_keyframes_to_calibrate_on(root: str) -> None:
    with pytest.raises(WrpError, match="calibration=auto is fitted to the keyframes of PropagationData"):
        pl.Trainer(**QUIET).predict(PropagationModule(3, calibration="auto"), SegmentationData(3, root))


def test_raft_is_known_too(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model=PropagationModule", "--model.flow=RAFT", "--model.flow.weights=no.pth"]
    assert main(["test", *given, "--data=PropagationData", f"--data.root={root}"]) == 2
    assert "with weights of RAFT" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flow", "signature"),
    [
        (["--model.flow=DIS", "--model.flow.preset=medium"], "DIS preset=medium"),
        (["--model.flow=dis-fast"], "DIS preset=medium scale=1.0"),
        (["--model.flow=Stored", "--model.flow.root=ROOT"], "stored"),
    ],
)
def test_flow_has_its_short_names_on_the_command_line(flow: list[str], signature: str, root: str) -> None:
    from wrp.cli.lightning import run

    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.limit_test_batches=0"]
    flow = [argument.replace("ROOT", root) for argument in flow]
    cli = run(["test", "--model=PropagationModule", *flow, "--data=PropagationData", f"--data.root={root}", *quiet])
    assert cli.model.flow.signature.startswith(signature)


def test_an_unknown_flow_is_named(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    clips = ["--data=PropagationData", f"--data.root={root}"]
    assert main(["test", "--model=PropagationModule", "--model.flow=raft-smal", *clips]) == 2
    assert "unknown flow 'raft-smal'; did you mean raft-small?" in capsys.readouterr().err
