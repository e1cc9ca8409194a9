"""What a run says it is going to do, and settings from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clips import make_folder
from wrp.cli import main
from wrp.errors import WrpError
from wrp.pipeline.autolabel import dry_run
from wrp.pipeline.plan import Costs, duration, plan
from wrp.pipeline.settings import Settings, read_settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"walk": 9, "ride": 5}, labelled=(0, 4, 8))


def settings(root: Path, **changes: object) -> Settings:
    quick = {"teacher_steps": 2, "refiner_steps": 2, "teacher_crop": (32, 64), "refiner_crop": (32, 64)}
    return Settings(**{"root": str(root), "out": str(root.parent / "out"), "weights": "none", **quick, **changes})


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--weights=none", "--teacher-steps=2", "--refiner-steps=2", "--student", "st++"]
    before = sorted(root.parent.rglob("*"))
    assert main(["autolabel", str(root), f"--out={root.parent / 'out'}", "--dry-run", *flags]) == 2
    assert main(["autolabel", str(root), f"--out={root.parent / 'out'}", "--dry-run", *flags[:-2]]) == 0
    assert sorted(root.parent.rglob("*")) == before
    said = capsys.readouterr().out
    assert "2 clips, 14 frames, 5 of them labelled, intervals of up to 5 frames, 3 classes" in said
    assert "teacher: 2 steps of 8 crops of 256×448 from 5 frames · about" in said
    assert "refiner: 2 steps on 5 labelled frames and the flow around them · about" in said
    assert "propagate: 14 frames in 3 intervals, by motion, semantic, inpaint, refine · about" in said
    assert said.splitlines()[-1].startswith("about ")


def test_what_is_there_or_given_costs_nothing(root: Path) -> None:
    chosen = settings(root, refiner="some.ckpt", teacher_folds=2, student="plain")
    out = Path(chosen.out)
    out.mkdir()
    (out / "teacher.ckpt").touch()
    steps = {step.name: step for step in plan(chosen, data_of(chosen))}
    assert list(steps) == ["flow", "teacher", "refiner", "propagate", "student (plain)"]
    assert steps["teacher"].what == f"{out / 'teacher.ckpt'}, which is there already"
    assert steps["refiner"].what == "some.ckpt"
    assert not steps["teacher"].work
    assert not steps["refiner"].work
    # Five, five and four frames between two anchors each; the last interval of each clip holds its last frame.
    assert steps["propagate"].work == {"flow": 28.0, "teacher": 14.0, "refine": 14.0}
    assert steps["student (plain)"].work == {"teacher_step": 2.0}


def test_a_refiner_with_folds_needs_their_teachers(root: Path) -> None:
    steps = [step.name for step in plan(settings(root, teacher_folds=2), data_of(settings(root)))]
    assert steps == ["flow", "teacher", "teacher of fold 1", "teacher of fold 2", "refiner", "propagate"]


def test_costs_are_measured_once_and_add_up(root: Path) -> None:
    chosen = settings(root)
    costs = Costs(chosen, data_of(chosen))
    for step in plan(chosen, data_of(chosen)):
        seconds = costs.seconds(step)
        assert seconds > 0
        assert costs.seconds(step) == seconds
    assert set(costs._known) == {"flow", "teacher_step", "teacher", "refiner_step", "refine"}
    assert dry_run(chosen).count(" · about ") == 4


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (95, "2 min"), (6000, "1 h 40 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_settings_come_from_a_file_and_flags_win(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"root: {root}\nmethods: motion, vote\nteacher_crop: [64, 96]\nseed: 3\nclips: [walk]\n")
    found = read_settings({"seed": 4, "out": "there"}, str(path))
    assert found == Settings(
        str(root), "there", methods=("motion", "vote"), teacher_crop=(64, 96), seed=4, clips=("walk",)
    )


def test_the_settings_of_a_run_serve_another(root: Path, tmp_path: Path) -> None:
    first = settings(root)
    (tmp_path / "settings.json").write_text(json.dumps(first.as_json()))
    assert read_settings({"out": first.out}, str(tmp_path / "settings.json")).as_json() == first.as_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teacher_stepz: 3", "there is no setting 'teacher_stepz'; known: anchors, architecture"),
        ("teacher_steps: many", "teacher_steps"),
        ("teacher_crop: [1, 2, 3]", "teacher_crop"),
        ("seed: 1", "root must be given"),
        ("- seed", "must name settings"),
        ("a: [", "cannot be read"),
    ],
)
def test_files_that_are_no_settings_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    given = {"out": "there"} if "root" in said or "seed" in text else {"out": "there", "root": "here"}
    with pytest.raises(WrpError, match=said.replace("'", ".")):
        read_settings(given, str(path))


def test_a_missing_file_of_settings_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autolabel", "--config", "nowhere.yaml"]) == 2
    assert "--config nowhere.yaml cannot be read" in capsys.readouterr().err
    assert main(["autolabel"]) == 2
    assert "root and out must be given" in capsys.readouterr().err


def data_of(chosen: Settings):  # type: ignore[no-untyped-def]
    from wrp.pipeline.autolabel import _data, index_of

    return _data(chosen, index_of(chosen))


def test_a_root_below_the_data_folder_is_found_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRP_DATA", str(root.parent))
    monkeypatch.chdir(Path(__file__).parent)
    assert Settings(root=root.name, out="out").as_json()["root"] == str(root.resolve())


def test_labels_that_came_later_are_for_another_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["autolabel", str(root), f"--out={root.parent / 'out'}", "--methods=motion"]
    assert main(command) == 0
    assert main([f"--config={root.parent / 'out' / 'settings.json'}" if a == str(root) else a for a in command]) == 0
    first = min((root / "labels" / "walk").iterdir())
    third = sorted((root / "frames" / "walk").iterdir())[2]
    first.with_name(f"{third.stem}.png").write_bytes(first.read_bytes())
    assert main(command) == 2
    assert "has learned from other labels than there are now; choose another --out" in capsys.readouterr().err


def test_a_dry_run_reads_the_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = min((root / "labels" / "walk").iterdir())
    label.write_bytes(b"nothing")
    assert main(["autolabel", str(root), f"--out={root.parent / 'out'}", "--dry-run"]) == 2
    assert str(label) in capsys.readouterr().err
