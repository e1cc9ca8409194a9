"""W&B sweeps run offline."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.io.locking import locked
from wrp.runs.search import RECORD, command_line, last_value, read_sweep, search

SWEEP: dict[str, Any] = {
    "method": "random",
    "metric": {"name": "val/miou", "goal": "maximize"},
    "parameters": {
        "model.optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "data.examples.crops": {"distribution": "int_uniform", "min": 1, "max": 4},
        "data.examples.cycles.crossed": {"values": [True, False]},
        "data.examples.cycles.jitter": {"value": 0.3},
    },
    "command": ["wrp", "fit", "--config=a.yaml", "--trainer.logger=WandbLogger", "${args}"],
}


def write(path: Path, sweep: Any) -> Path:
    path.write_text(yaml.safe_dump(sweep))
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was run, in the place of a training: its score is the number of crops."""
    made: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        made.append(command)
        [crops] = [a.split("=")[1] for a in command if a.startswith("--data.examples.crops")]
        [folder] = [a.split("=")[1] for a in command if a.startswith("--trainer.logger.save_dir")]
        log = Path(folder, "version_0", "metrics.csv")
        log.parent.mkdir(parents=True)
        log.write_text(f"step,train/loss,val/miou\n1,0.5,\n2,,0.1\n3,,{crops}\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return made


def test_arguments_are_those_of_an_agent() -> None:
    values = {"model.optimizer.lr": 0.01, "data.examples.cycles.crossed": True}
    expected = [
        "fit",
        "--config=a.yaml",
        "--trainer.logger=WandbLogger",
        "--model.optimizer.lr=0.01",
        "--data.examples.cycles.crossed=true",
    ]
    assert command_line(SWEEP, values) == expected


def test_a_search_runs_its_trials_and_goes_on(
    runs: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "sweep.yaml", SWEEP), tmp_path / "out"
    assert main(["search", str(path), "--trials", "3", "--out", str(out)]) == 0
    assert len(runs) == 3
    for command in runs:
        assert command[1:5] == ["-m", "wrp", "fit", "--config=a.yaml"]
        assert "--trainer.logger=CSVLogger" in command
        assert "--trainer.logger=WandbLogger" not in command
        assert "--data.examples.cycles.jitter=0.3" in command
        [rate] = [float(a.split("=")[1]) for a in command if a.startswith("--model.optimizer.lr")]
        assert 1e-4 <= rate <= 1e-1
    study = search(path, 5, out)
    assert len(runs) == 5
    assert study.best_value == max(
        int(a.split("=")[1]) for c in runs for a in c if a.startswith("--data.examples.crops")
    )
    capsys.readouterr()
    assert main(["search", str(path), "--trials", "5", "--out", str(out)]) == 0
    assert len(runs) == 5
    table = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in table[0].split("|")[1:-1]] == ["trial", "value", "crops", "crossed", "lr"]
    assert len(table) == 7
    assert float(table[2].split("|")[2]) == study.best_value


def test_the_trial_that_was_interrupted_is_made_again(
    runs: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write(tmp_path / "sweep.yaml", SWEEP), tmp_path / "out"
    works = subprocess.run

    def stop(command: list[str], **_: Any) -> None:
        runs.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", stop)
    assert main(["search", str(path), "--trials", "1", "--out", str(out)]) == 130
    monkeypatch.setattr(subprocess, "run", works)
    search(path, 1, out)
    values = [[a for a in command if a.startswith(("--model.", "--data."))] for command in runs]
    assert values[0] == values[1]


def test_a_search_that_is_resumed_draws_what_an_undisturbed_one_does(runs: list[list[str]], tmp_path: Path) -> None:
    path = write(tmp_path / "sweep.yaml", SWEEP)
    whole = search(path, 3, tmp_path / "whole")
    for trials in (1, 2, 3):
        resumed = search(path, trials, tmp_path / "parts")
    assert [trial.params for trial in resumed.trials] == [trial.params for trial in whole.trials]
    assert [trial.value for trial in resumed.trials] == [trial.value for trial in whole.trials]
    assert len({trial.params["model.optimizer.lr"] for trial in whole.trials}) == 3
    assert sorted(found.name for found in (tmp_path / "parts").glob("trial-*")) == ["trial-0", "trial-1", "trial-2"]


def test_what_a_killed_search_has_left_is_removed(runs: list[list[str]], tmp_path: Path) -> None:
    path, out = write(tmp_path / "sweep.yaml", SWEEP), tmp_path / "out"
    search(path, 1, out)
    left = [out / "trial-1/version_0/metrics.csv", out / ".search.json.0123456789ab.tmp"]
    for found in left:
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text("step,val/miou\n1,9\n")
    assert search(path, 2, out).best_value < 9
    assert not left[1].exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"metric": {"name": "val/miou", "goal": "minimize"}}])
def test_trials_of_two_searches_are_not_mixed(change: dict[str, Any], runs: list[list[str]], tmp_path: Path) -> None:
    out, seed = tmp_path / "out", change.pop("seed", 0)
    search(write(tmp_path / "sweep.yaml", SWEEP), 1, out)
    with pytest.raises(WrpError, match="out holds a search by another sweep or --seed"):
        search(write(tmp_path / "sweep.yaml", {**SWEEP, **change}), 2, out, seed)
    assert len(runs) == 1


def test_two_searches_do_not_write_to_one_folder(runs: list[list[str]], tmp_path: Path) -> None:
    path, out = write(tmp_path / "sweep.yaml", SWEEP), tmp_path / "out"
    search(path, 1, out)
    with locked(out), pytest.raises(WrpError, match="another process is writing to"):
        search(path, 2, out)


@pytest.mark.parametrize("content", ["[]", "{", "trials", "values", "value"])
def test_a_damaged_record_is_refused(content: str, runs: list[list[str]], tmp_path: Path) -> None:
    path, out = write(tmp_path / "sweep.yaml", SWEEP), tmp_path / "out"
    search(path, 1, out)
    record = out / RECORD
    whole = json.loads(record.read_text())
    damaged = {
        "trials": {**whole, "trials": 3},
        "values": {**whole, "trials": [{"values": 3, "value": 0.5}]},
        "value": {**whole, "trials": [{"values": {}, "value": float("nan")}]},
    }
    record.write_text(json.dumps(damaged[content]) if content in damaged else content)
    with pytest.raises(WrpError, match=r"search\.json is damaged"):
        search(path, 2, out)


def test_a_trial_that_fails_stops_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2))
    path = write(tmp_path / "sweep.yaml", SWEEP)
    assert main(["search", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "trial 0 failed with exit code 2: wrp fit --config=a.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": None}, "command must begin with wrp"),
        ({"command": ["wrp", "fit"]}, "must begin with wrp and contain"),
        ({"metric": {"name": "x"}}, "unknown metric.goal in .*sweep.yaml: None, expected one of maximize, minimize"),
        ({"parameters": {"a": {"distribution": "normal", "mu": 0}}}, "parameter a needs value, values, or min and max"),
        ({"parameters": {"a": 3}}, "parameter a needs"),
        ({"parameters": ["a"]}, "parameters must be a mapping of names"),
        ({"metric": "val/miou"}, "sweep.yaml: None, expected one of maximize, minimize"),
    ],
)
def test_files_that_are_no_sweeps_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(WrpError, match=said):
        read_sweep(write(tmp_path / "sweep.yaml", {**SWEEP, **changes}))


def test_a_sweep_without_its_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrpError, match="lacks command, parameters, metric"):
        read_sweep(write(tmp_path / "sweep.yaml", {"method": "grid"}))
    with pytest.raises(WrpError, match="cannot be read"):
        read_sweep(tmp_path / "nowhere.yaml")


def test_a_run_without_the_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrpError, match="contains no value of val/miou"):
        last_value(tmp_path, "val/miou")
    (tmp_path / "metrics.csv").write_text("step,val/miou\n1,0.5\n2,nan\n")
    with pytest.raises(WrpError, match="has val/miou nan, expected a finite number"):
        last_value(tmp_path, "val/miou")
