"""Progress of loops and stages, on a terminal and in a file."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.callbacks import TQDMProgressBar

from wrp.callbacks.bars import StageBar
from wrp.io import progress as module
from wrp.io.progress import progress
from wrp.runs.processes import Processes
from wrp.structures import ClipBatch


def test_a_file_gets_no_line_of_a_short_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(30), desc="Reading", total=30)) == list(range(30))
    assert capsys.readouterr().err == ""


def test_a_file_gets_whole_lines_of_a_long_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.0)
    with module.make_bar(desc="Outside", total=2, disable=False):
        assert list(progress(range(3), desc="Reading", unit="frame", total=3, miniters=1)) == [0, 1, 2]
    err = capsys.readouterr().err
    assert not {"\r", "\x1b"} & set(err)
    assert err.splitlines()[-1].startswith("Reading: 100% 3/3 [00:00<00:00")


def test_a_terminal_gets_a_bar_with_stage_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = StageBar("Labelling")
    items = SimpleNamespace(dataset=SimpleNamespace(costs=[4, 2, 9]))
    trainer: Any = SimpleNamespace(predict_dataloaders=items, num_predict_batches=[2], world_size=1)
    module_: Any = None
    bar.on_predict_start(trainer, module_)
    for queries in ((0, 4), (4, 6)):
        bar.on_predict_batch_end(trainer, module_, None, ClipBatch("a", [], 0, [], {}, queries), 0)
    bar.on_predict_end(trainer, module_)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("Labelling: 100%")
    assert "6/6 [00:00<00:00" in last


def test_a_bar_of_the_users_takes_its_place() -> None:
    given = {"accelerator": "cpu", "callbacks": [{"class_path": "TQDMProgressBar"}]}
    alone = given | {"callbacks": "TQDMProgressBar"}
    for arguments, kind in (({"accelerator": "cpu"}, StageBar), (given, TQDMProgressBar), (alone, TQDMProgressBar)):
        assert type(Processes(arguments).trainer().progress_bar_callback) is kind
    assert Processes({"accelerator": "cpu", "enable_progress_bar": False}).trainer().progress_bar_callback is None
