"""What a run says it is going to do, and settings from files."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clips import make_folder
from wrp.cli.main import main
from wrp.options import SelectArgs
from wrp.runs.arguments import parse_arguments
from wrp.runs.autolabel import dry_run, index_of
from wrp.runs.config import RefinerTrainingArgs, RunArgs, Settings, TeacherArgs
from wrp.runs.plan import Costs, describe, duration, memory, plan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"walk": 9, "ride": 5}, labelled=(0, 4, 8))


def settings(root: Path, folds: int = 0, **changes: Any) -> Settings:
    teacher = TeacherArgs(weights="none", steps=2, crop=(32, 64), folds=folds)
    refiner = RefinerTrainingArgs(steps=2, crop=(32, 64))
    out = str(root.parent / "out")
    return Settings(root=str(root), out=out, train_teacher=teacher, train_refiner=refiner, **changes)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--weights=none", "--teacher-steps=2", "--refiner-steps=2", "--student", "st++"]
    before = sorted(root.parent.rglob("*"))
    assert main(["autolabel", str(root), f"--out={root.parent / 'out'}", "--dry-run", *flags]) == 2
    assert main(["autolabel", str(root), f"--out={root.parent / 'out'}", "--dry-run", *flags[:-2]]) == 0
    assert sorted(root.parent.rglob("*")) == before
    said = capsys.readouterr().out
    assert "2 clips, 14 frames, 5 of them labelled, intervals of up to 5 frames, 3 classes" in said
    assert "teacher: 2 steps of 8 crops of 64×32 pixels from 5 frames · about" in said
    assert "refiner: 2 steps on 5 labelled frames and the flow around them · up to 1 MB on disk · about" in said
    assert "propagate: 14 frames in 3 intervals, by motion, semantic, inpaint, refine · up to 1 MB on disk" in said
    assert said.splitlines()[-1].startswith("about ")


def test_disk_and_memory_are_planned(root: Path) -> None:
    chosen = replace(settings(root), train_refiner=RefinerTrainingArgs(steps=60))
    index = index_of(chosen)
    steps, pixels = {step.name: step for step in plan(chosen, index)}, 24 * 40
    # Both flows of 12 pairs in half precision; direct ones, in full, of 28 frames and keyframes and of the windows.
    of_windows = steps["refiner"].work["flow"]
    assert steps["flow"].disk == 8 * pixels * (12 + 28 + round(of_windows))
    # Image, truth, probabilities of three classes, and two sources of each cycle.
    assert steps["refiner"].disk == pixels * (5 * (4 + 2 * 3) + 8 * round(of_windows / 2))
    assert 0 < steps["propagate"].disk < 14 * pixels
    motion = replace(chosen, methods=("motion",))
    assert (
        9e8 < memory(motion, index) < memory(replace(chosen, teacher="a", refiner="b"), index) < memory(chosen, index)
    )
    assert plan(motion, index)[0].disk == 8 * pixels * (12 + 28)


def test_what_is_there_or_given_costs_nothing(root: Path) -> None:
    chosen = settings(root, folds=2, refiner="some.ckpt", student="plain")
    out = Path(chosen.out)
    out.mkdir()
    (out / "teacher.ckpt").touch()
    steps = {step.name: step for step in plan(chosen, index_of(chosen))}
    assert list(steps) == ["flow", "teacher", "refiner", "calibrate", "propagate", "student (plain)", "report"]
    assert steps["teacher"].what == f"{out / 'teacher.ckpt'} exists already"
    assert steps["refiner"].what == "some.ckpt"
    assert not steps["teacher"].work
    assert not steps["refiner"].work
    # Five, five and four frames between two keyframes each; the last interval of each clip holds its last frame.
    # The keyframe 4 of "walk" is labelled once more, with its neighbours, along all of its frames from both sides; six
    # of these flows are found again.
    assert steps["calibrate"].work == {"flow": 14.0, "teacher": 7.0, "refine": 7.0}
    assert steps["propagate"].work == {"flow": 22.0, "teacher": 14.0, "refine": 14.0}
    assert steps["report"].work == {"picture": 14.0}
    assert steps["student (plain)"].work == {"teacher_step": 2.0}


def test_a_refiner_with_folds_needs_their_teachers(root: Path) -> None:
    steps = [step.name for step in plan(settings(root, folds=2), index_of(settings(root)))]
    assert steps == [
        "flow",
        "teacher",
        "teacher of fold 1",
        "teacher of fold 2",
        "refiner",
        "calibrate",
        "propagate",
        "report",
    ]


def test_costs_are_measured_once_and_add_up(root: Path) -> None:
    chosen = settings(root)
    costs = Costs(chosen, index_of(chosen))
    for step in plan(chosen, index_of(chosen)):
        seconds = costs.seconds(step)
        assert seconds > 0
        assert costs.seconds(step) == seconds
    assert set(costs._known) == {"flow", "teacher_step", "teacher", "refiner_step", "refine", "picture"}
    assert dry_run(chosen).count(" · about ") == 6


def test_a_dry_run_says_that_it_measures(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        said = dry_run(settings(root, methods="motion"))
    assert "Measuring how long each step takes on this computer" in caplog.text
    assert "calibrate: 1 keyframe between two others, labelled once more from these · about " in said
    assert "report: pictures of 14 frames · about " in said


def test_a_calibration_that_is_done_is_not_planned(root: Path) -> None:
    chosen = settings(root, methods="motion")
    index = index_of(chosen)
    assert "calibrate" in [step.name for step in plan(chosen, index)]
    assert "calibrate" not in [step.name for step in plan(chosen, index, counted=frozenset({("walk", 4)}))]
    assert main(["autolabel", str(root), f"--out={chosen.out}", "--methods=motion", "--limit=0"]) == 0
    assert "calibrate" not in [step.name for step in plan(chosen, index)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system gives no cores to a process")
def test_the_cores_are_those_that_the_run_may_use(root: Path) -> None:
    chosen, cores = settings(root, methods=("motion",)), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        said = describe(chosen, index_of(chosen), [])
    finally:
        os.sched_setaffinity(0, cores)
    assert torch.cuda.is_available() or "device: 1 CPU core; seed 0" in said


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (95, "2 min"), (6000, "1 h 40 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_settings_come_from_a_file_and_flags_win(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        f"root: {root}\nmethods: motion, vote\ntrain_teacher: {{crop: [64, 96]}}\nrun: {{seed: 3, workers: 1}}\n"
        "select: {clips: [walk]}\n"
    )
    found, dry = parse_arguments(["--seed=4", f"--config={path}", "--out", "there"])
    assert not dry
    assert found == Settings(
        str(root),
        "there",
        methods=["motion", "vote"],
        train_teacher=TeacherArgs(crop=(64, 96)),
        run=RunArgs(seed=4, workers=1),
        select=SelectArgs(clips=["walk"]),
    )


def test_the_settings_of_a_run_serve_another(root: Path, tmp_path: Path) -> None:
    first = settings(root)
    (tmp_path / "settings.json").write_text(json.dumps(first.as_json()))
    found, _ = parse_arguments([f"--out={first.out}", f"--config={tmp_path / 'settings.json'}"])
    assert found == first
    (tmp_path / "settings.json").write_text(json.dumps(first.as_json() | {"out": first.out}))
    assert parse_arguments([f"--config={tmp_path / 'settings.json'}"])[0] == first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teacher_stepz: 3", "there is no setting 'teacher_stepz'; did you mean train_teacher.steps?"),
        ("train_teacher: {stepz: 3}", "there is no setting 'train_teacher.stepz'; did you mean train_teacher.steps?"),
        ("train_teacher: {steps: many}", "train_teacher.steps must be of type int or None, got 'many'"),
        (
            "train_teacher: {crop: [1, 2, 3]}",
            r"train_teacher.crop must be of type tuple\[int, int\] or None, got \[1, 2, 3\]",
        ),
        ("train_teacher: 3", "train_teacher must be a group of settings, lines `name: value`, got 3"),
        ("run: {seed: null}", "run.seed must be of type int, got None"),
        ("train_teacher: {losses: {dice: much}}", "train_teacher.losses must be of type"),
        ("run: {seed: 1}", "root must be given"),
        ("- seed", "must contain settings"),
        ("a: [", "cannot be read"),
    ],
)
def test_files_that_are_no_settings_are_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    root = [] if said.startswith("root") else ["here"]
    assert main(["autolabel", *root, "--out=there", f"--config={path}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    where = "" if said.startswith("root") else f"--config {path}:? "
    assert re.match(f"wrp: error: {where}{said}", line), line


def test_a_missing_file_of_settings_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autolabel", "--config", "nowhere.yaml"]) == 2
    assert "--config nowhere.yaml cannot be read" in capsys.readouterr().err
    assert main(["autolabel"]) == 2
    assert "root and out must be given" in capsys.readouterr().err


def test_a_root_below_the_data_folder_is_found_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRP_DATA", str(root.parent))
    monkeypatch.chdir(Path(__file__).parent)
    command = ["autolabel", root.name, f"--out={root.parent / 'out'}", "--methods=copy"]
    assert main(command) == 0
    assert json.loads((root.parent / "out/settings.json").read_text())["root"] == str(root.resolve())
    monkeypatch.delenv("WRP_DATA")
    assert main([command[0], f"--config={root.parent / 'out/settings.json'}", *command[2:]]) == 0


def test_labels_that_came_later_are_for_another_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["autolabel", str(root), f"--out={root.parent / 'out'}", "--methods=motion"]
    assert main(command) == 0
    assert main([f"--config={root.parent / 'out' / 'settings.json'}" if a == str(root) else a for a in command]) == 0
    first = min((root / "labels" / "walk").iterdir())
    third = sorted((root / "frames" / "walk").iterdir())[2]
    first.with_name(f"{third.stem}.png").write_bytes(first.read_bytes())
    assert main(command) == 2
    assert (
        f"{third.stem}.png; use it with another --out and --continue {root.parent / 'out'}" in capsys.readouterr().err
    )


def test_a_dry_run_reads_the_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = min((root / "labels" / "walk").iterdir())
    label.write_bytes(b"nothing")
    assert main(["autolabel", str(root), f"--out={root.parent / 'out'}", "--dry-run"]) == 2
    assert str(label) in capsys.readouterr().err
