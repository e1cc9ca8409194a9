"""The command line itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wrp.cli.main import main


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for verb in ("fit", "validate", "test", "predict", "autolabel", "demo"):
        assert verb in printed


def test_unknown_verbs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["propagate"]) == 2
    assert "invalid choice: 'propagate'" in capsys.readouterr().err


def test_lightning_help_explains_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.help", "RefinementModule"]) == 0
    assert "--model.optimizer" in capsys.readouterr().out
    assert main(["fit", "--data=RefinementData", "--data.examples.help", "CycleExamples"]) == 0
    assert "--examples.fold_teachers" in capsys.readouterr().out


def test_unknown_classes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "Nothing"]) == 2
    assert "Nothing" in capsys.readouterr().err


def test_module_and_version() -> None:
    run = subprocess.run([sys.executable, "-m", "wrp", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("wrp ")
    assert f"torch {torch.__version__.split('+')[0]}" in run.stdout.replace("\n", " ")


def test_a_missing_logger_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from wrp.cli import lightning as lightning_cli

    monkeypatch.setitem(lightning_cli.LOGGERS, "CSVLogger", (False, "wandb"))
    command = ["fit", "--model", "RefinementModule", "--data", "SegmentationData", "--data.num_classes", "10"]
    assert main([*command, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "."]) == 2
    assert "pip install 'wrp[wandb]'" in capsys.readouterr().err


def test_the_null_of_an_argument_in_a_group_is_no_text() -> None:
    from wrp.cli.lightning import with_nulls

    given = ["fit", "--model.network.encoder_weights=null", "--model.init_args.network.scale", "null"]
    given += ["--model.net=null", "--trainer.logger=null", "--data.examples.teacher=null", "--data.root", "null"]
    expected = ["fit", "--model.network={encoder_weights: null}", "--model.init_args.network={scale: null}"]
    expected += ["--model.net=null", "--trainer.logger=null", "--data.examples.teacher=null", "--data.root=null"]
    assert with_nulls(given) == expected
