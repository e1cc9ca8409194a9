"""The main job through the command line: what is written, what is resumed, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import id_picture, make_camvid, make_davis, make_folder, save
from wrp.cli.main import main
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import WrpError
from wrp.module import BaseModule
from wrp.runs import training
from wrp.runs.arguments import parse_arguments
from wrp.runs.config import STUDENTS, Settings, TeacherArgs
from wrp.runs.students import WAYS
from wrp.runs.training import find_weights

QUICK = ["--teacher-steps", "2", "--refiner-steps", "2", "--weights", "none"]


def metrics(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


def tree(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene") / "clip"
    return generate_folder(folder, num_classes=8, num_frames=9, height=64, width=96)


@pytest.mark.slow
def test_all_methods(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(scene), "--out", str(out), "--label-every", "4", *QUICK]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "| refine " in printed.out
    assert str(out / "report.md") in printed.out
    assert str(out / "report.html") in printed.out
    result = metrics(out)
    report = (out / "report.md").read_text()
    assert "| confidence | accuracy |" in report
    assert "within 3 px of a border" in report
    assert result["schema"] == 3
    assert list(result["overall"]) == ["motion", "semantic", "inpaint", "refine", "upper_bound"]
    for scores in result["overall"].values():
        assert scores["frames"] == 6
        assert set(scores["by_distance"]) == {"1", "2"}
        assert 0 <= scores["miou"] <= 100
        assert len(scores["per_class"]) == 8
    assert result["overall"] == result["clips"]["street0"]
    assert set(result["seconds"]) == {"flow", "teacher", "refiner", "propagate", "total"}
    assert result["settings"]["encoder_weights"] is None
    for folder in ("labels", "confidence"):
        assert len(list((out / folder / "street0").glob("*.png"))) == 9
    label = Image.open(out / "labels/street0/00002.png")
    assert label.mode == "P"
    for keyframe in ("00000", "00004", "00008"):
        given, copied = (np.array(Image.open(r / "labels/street0" / f"{keyframe}.png")) for r in (scene, out))
        assert np.array_equal(given, copied)
    assert "![street0](report/street0.png)" in (out / "report.md").read_text()
    assert Image.open(out / "report/street0.png").size == (3 * 96, 2 * (64 + 18))
    # Everything is there: the same command trains nothing and writes the same.
    before, checkpoint = tree(out), (out / "teacher.ckpt").stat().st_mtime_ns
    assert main(command) == 0
    assert tree(out) == before
    assert (out / "teacher.ckpt").stat().st_mtime_ns == checkpoint
    # A lost interval is made again, and only that one.
    kept = (out / "labels/street0/00001.png").stat().st_mtime_ns
    (out / "manifest.parts/street0/000004.jsonl").unlink()
    (out / "labels/street0/00005.png").unlink()
    assert main(command) == 0
    assert tree(out) == before
    assert (out / "labels/street0/00001.png").stat().st_mtime_ns == kept
    # Other settings do not mix with what is there.
    assert main([*command, "--seed", "5"]) == 2
    assert "was begun with --seed 0, this command has --seed 5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_hidden_label_changes_nothing_but_the_score(tmp_path: Path) -> None:
    roots = [make_folder(tmp_path / name / "clips", {"walk": 7}) for name in "ab"]
    save(roots[1] / "labels/walk/00004.png", np.full_like(id_picture(0), 7))
    results = []
    for root in roots:
        out = root.parent / "out"
        assert main(["autolabel", str(root), "--out", str(out), "--label-every", "3", *QUICK]) == 0
        results.append(({k: v for k, v in tree(out).items() if not k.startswith("report")}, metrics(out)["overall"]))
    assert results[0][0] == results[1][0]
    assert results[0][1] != results[1][1]


def test_nothing_is_trained_that_no_method_needs(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["autolabel", str(scene), "--out", str(out), "--label-every", "4", "--methods", "motion"]) == 0
    assert not list(out.glob("*.ckpt"))
    assert not (out / "methods").exists()


def test_only_anchors_have_labels(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 6, "run": 5}, labelled=(2,))
    out = tmp_path / "out"
    assert main(["autolabel", str(root), "--out", str(out), "--methods", "motion:previous,motion"]) == 0
    assert len(list((out / "labels").rglob("*.png"))) == 11
    scores = metrics(out)["overall"]["motion"]
    assert scores["per_class"] == {"road": None, "sky": None, "car": None}
    assert [scores[key] for key in ("miou", "by_distance", "frames", "miou_trimap")] == [None, {}, 0, None]
    assert "Scores" not in (out / "report.md").read_text()
    assert set(np.unique(np.array(Image.open(out / "labels/run/00001.png")))) <= {0, 3, 7, 255}


def test_camvid_layout(tmp_path: Path) -> None:
    root = make_camvid(tmp_path / "camvid", val=6)
    out = tmp_path / "out"
    assert main(["autolabel", str(root), "--out", str(out), "--label-every", "5", "--methods", "motion"]) == 0
    stems = [path.stem for path in sorted((out / "labels/0016E5_07959").glob("*.png"))]
    assert stems == [f"0016E5_{7959 + 2 * i:05d}" for i in range(6)]


def test_davis_layout(tmp_path: Path) -> None:
    root = make_davis(tmp_path / "davis", {"bear": 7, "surf": 6})
    out = tmp_path / "out"
    command = ["autolabel", str(root), "--out", str(out), "--label-every", "3", "--methods", "motion"]
    assert main([*command, "--clips", "bear"]) == 0
    assert set(metrics(out)["overall"]["motion"]) >= {"miou", "per_class", "by_distance", "frames", "j", "f"}
    values = {int(v) for path in (out / "labels").rglob("*.png") for v in np.unique(np.array(Image.open(path)))}
    assert values <= {0, 1, 255}
    assert not (out / "labels/surf").exists()


def test_weights_that_cannot_be_had_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from wrp.errors import WrpError
    from wrp.runs import training

    def fail(*_: object) -> None:
        raise WrpError("no network")

    monkeypatch.setattr(training, "create_segmenter", fail)
    monkeypatch.setattr(training, "installed_package", lambda _: None)
    assert find_weights(Settings("a", "b")) == (None, "no network")
    assert find_weights(Settings("a", "b", train_teacher=TeacherArgs(weights="none"))) == (None, None)
    assert find_weights(Settings("a", "b", train_teacher=TeacherArgs(weights="imagenet"))) == ("imagenet", None)
    # Those of a package need no network.
    monkeypatch.setattr(training, "installed_package", lambda encoder: f"weights of {encoder}")
    assert find_weights(Settings("a", "b")) == ("imagenet", None)


def broken(root: Path, what: str) -> str:
    """Break a data set and return what the message must name."""
    label, frame = root / "labels/walk/00000.png", root / "frames/walk/00003.png"
    if what == "label of another size":
        save(label, id_picture(0, width=30))
    elif what == "id outside classes.yaml":
        save(label, np.full_like(id_picture(0), 5))
    elif what == "unknown colour":
        save(label, np.full((24, 40, 3), 7, np.uint8))
    elif what == "truncated label":
        label.write_bytes(label.read_bytes()[:60])
    elif what == "truncated frame":
        frame.write_bytes(frame.read_bytes()[:-200])
        return str(frame)
    elif what == "frame of another size":
        save(frame, np.zeros((20, 40, 3), np.uint8))
        return str(frame)
    elif what == "no label":
        for path in (root / "labels/walk").iterdir():
            path.unlink()
        return "clip walk"
    elif what == "no classes.yaml":
        (root / "classes.yaml").unlink()
        return "classes.yaml"
    elif what == "broken classes.yaml":
        (root / "classes.yaml").write_text("classes: [road, car]")
        return "classes.yaml"
    return str(label)


@pytest.mark.parametrize(
    "what",
    [
        "label of another size",
        "id outside classes.yaml",
        "unknown colour",
        "truncated label",
        "truncated frame",
        "frame of another size",
        "no label",
        "no classes.yaml",
        "broken classes.yaml",
    ],
)
def test_bad_input(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 6}, labelled=(0, 5))
    named = broken(root, what)
    assert main(["autolabel", str(root), "--out", str(tmp_path / "out"), "--methods", "motion"]) == 2
    error = capsys.readouterr().err
    assert "wrp: error: " in error
    assert named in error
    assert "Traceback" not in error
    if what == "truncated frame":  # found when it is decoded
        assert not list((tmp_path / "out").rglob("*.png"))
    else:
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "out"], "there is no file or folder nowhere"),
        (["clips", "--out", "clips"], "which is read from; choose another"),
        (["clips", "--out", "clips/labels/x"], "which is read from; choose another"),
        (
            ["clips", "--out", "out", "--methods", "motoin"],
            "unknown method 'motoin'; did you mean motion?",
        ),
        (["clips", "--out", "out", "--clips", "fly"], "has no clip 'fly'; its clips are walk"),
        (["clips", "--out", "out", "--label-every", "0"], "label-every must be at least 1"),
        (["clips", "--out", "out", "--label-every", "2", "--label-offset", "9"], "leaves none"),
        (["clips", "--out", "out", "--layout", "camvid"], "does not have the layout 'camvid'"),
        (["clips", "--out", "out", "--split", "val"], "cannot be read"),
        (["clips", "--out", "out", "--methods", "semantic", "--teacher", "t.ckpt"], "there is no checkpoint t.ckpt"),
        (["clips", "--out", "out", "--teacher", "x/teacher-unfinished.ckpt"], "a training that has not ended"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "clips", {"walk": 4}, labelled=(0, 3))
    assert main(["autolabel", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from wrp.runs import autolabel

    short = {name: replace(training, steps=1) for name, training in autolabel.DEMO.items()}
    assert set(short) == {"train_teacher", "train_refiner"}
    monkeypatch.setattr(autolabel, "DEMO", short)
    small = partial(autolabel.generate_folder, num_frames=25, height=64, width=96)
    monkeypatch.setattr(autolabel, "generate_folder", small)
    assert main(["demo", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| refine " in printed
    assert "report: wrp-demo/run/report.html, its tables as text: wrp-demo/run/report.md" in printed
    assert "next: wrp suggest wrp-demo/run" in printed
    # Motion comes first, with a picture.
    told = [record.message for record in caplog.records if record.message.startswith(("Step ", "First picture"))]
    assert [line.partition(":")[0][:13] for line in told] == [
        "Step 1 of 3",
        "Step 2 of 3",
        "First picture",
        "Step 3 of 3",
    ]
    assert Path("wrp-demo/motion/report/street1.png").is_file()
    # What is printed as the next command belongs to the same run.
    command = printed.splitlines()[-1].partition(": wrp ")[2].split()
    settings, _ = parse_arguments(command[1:])
    made = (settings.out, settings.student, settings.train_teacher.steps, settings.select.label_every)
    assert made == ("wrp-demo/run", "plain", 1, 12)
    assert len(list(Path("wrp-demo/run/labels/street1").glob("*.png"))) == 25
    assert Path("wrp-demo/run/report/street1.png").is_file()


def test_labels_that_were_lost_are_made_again(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(scene), "--out", str(out), "--label-every", "4", "--methods", "motion"]
    assert main(command) == 0
    before = tree(out / "labels")
    next(path for path in sorted((out / "labels").rglob("*.png"))).unlink()
    assert main(command) == 0
    assert tree(out / "labels") == before


def test_a_flow_cache_is_kept_and_shared_between_runs(
    scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["autolabel", str(scene), "--label-every", "4", "--methods", "motion"]
    cache = ["--flow-cache", str(tmp_path / "flow")]
    assert main([*command, "--out", str(tmp_path / "a"), *cache]) == 0
    assert list((tmp_path / "flow").glob("*.flow"))
    caplog.clear()
    with caplog.at_level("INFO", "wrp"):
        assert main([*command, "--out", str(tmp_path / "b"), *cache]) == 0
    assert "100 % found" in caplog.text
    assert main([*command, "--out", str(tmp_path / "c")]) == 0
    assert not (tmp_path / "c" / "flow").exists()
    assert tree(tmp_path / "a" / "labels") == tree(tmp_path / "b" / "labels") == tree(tmp_path / "c" / "labels")


def test_a_flow_cache_that_is_a_file_is_refused_first(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flow").write_text("")
    command = ["autolabel", str(scene), "--out", str(tmp_path / "out"), "--flow-cache", str(tmp_path / "flow")]
    assert main(command) == 2
    assert "flow is a file, expected a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_teacher_may_learn_from_frames_labelled_by_motion(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, served = tmp_path / "out", []
    fit = training.fit

    def spy(module: Any, data: Any, *how: Any) -> None:
        assert data.propagated is not None
        assert len(list((Path(data.propagated.folder) / "labels/street0").glob("*.png"))) == 9
        fit(module, data, *how)
        served.append({index for batch in data.train_dataloader() for index in batch.indices})

    monkeypatch.setattr(training, "fit", spy)
    command = ["autolabel", str(scene), "--out", str(out), "--label-every", "4", "--methods=motion,semantic", *QUICK]
    assert main([*command, "--propagated-ratio", "0.75", "--teacher-steps=8"]) == 0
    (indices,) = served
    assert indices > {0, 4, 8}
    assert not (out / "motion").exists()
    assert len(list((out / "labels/street0").glob("*.png"))) == 9


@pytest.mark.slow
def test_the_refiner_learns_from_the_teachers_of_the_folds(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(scene), "--out", str(out), "--label-every", "4", *QUICK]
    assert main([*command, "--teacher-folds", "2"]) == 0
    assert {path.name for path in out.glob("*.ckpt")} == {
        "teacher.ckpt", "teacher-1-of-2.ckpt", "teacher-2-of-2.ckpt", "refiner.ckpt"
    }  # fmt: skip
    networks = [torch.load(out / f"teacher{fold}.ckpt", weights_only=True) for fold in ("", "-1-of-2", "-2-of-2")]
    weights = [network["state_dict"]["net.net.encoder.model.stem.conv.weight"] for network in networks]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    capsys.readouterr()
    assert main([*command, "--teacher-folds", "1"]) == 2
    assert "--teacher-folds must be 0 or at least 2, got 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_student_learns_from_all_frames_in_the_end(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(scene), "--out", str(out), "--label-every", "4", "--methods=motion", *QUICK]
    assert main(command) == 0
    assert not (out / "student.ckpt").exists()
    before = tree(out)
    assert main([*command, "--student"]) == 0
    assert "student network alone: mIoU" in capsys.readouterr().out
    assert tree(out) == before
    assert set(metrics(out)["student"]) == {"miou", "ece"}
    assert 0 <= metrics(out)["student"]["ece"] <= 100
    assert "The student alone" in (out / "report.md").read_text()
    made = (out / "student.ckpt").stat().st_mtime_ns
    assert main([*command, "--student"]) == 0
    assert (out / "student.ckpt").stat().st_mtime_ns == made


@pytest.mark.slow
def test_students_weigh_keep_apart_and_schedule_what_they_learn_from(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quick = ["--methods=motion", "--teacher-steps=3", "--weights=none"]
    command = ["autolabel", str(scene), "--out", str(out), "--label-every", "4", *quick]
    assert main([*command, "--student", "cisc-r"]) == 0  # trains a teacher for it, too
    entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    propagated = [entry for entry in entries if entry["index"] not in entry["keyframes"]]
    assert len(list((out / "rectified").rglob("*.png"))) == len(propagated)
    assert main([*command, "--student", "three-stage"]) == 0
    network = torch.load(out / "student-three-stage.ckpt", weights_only=True)
    assert network[BaseModule.CLASS_KEY].endswith("ThreeStageModule")
    assert main([*command, "--student", "st++"]) == 0
    assert len((out / "reliable.txt").read_text().splitlines()) == len(propagated) // 2
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.ckpt")}
    names = ("teacher", "ranker", "ranker-1", "ranker-2", "student-cisc-r", "student-three-stage", "student-st++")
    assert {path.stem for path in made} == {*names}
    assert main([*command, "--student", "st++"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.ckpt")} == made


def test_there_are_four_kinds_of_students(tmp_path: Path) -> None:
    folders = {"root": str(tmp_path / "data"), "out": str(tmp_path / "out")}
    with pytest.raises(WrpError, match=r"unknown student 'best', expected one of plain, cisc-r, three-stage, st\+\+"):
        Settings(**folders, student="best")
    with pytest.raises(WrpError, match="at least 3, got 2"):
        Settings(**folders, student="st++", train_teacher=TeacherArgs(steps=2))
    with pytest.raises(WrpError, match=r"train_teacher\.batch of at least 2, got 1"):
        Settings(**folders, student="three-stage", train_teacher=TeacherArgs(batch=1))
    assert set(STUDENTS) == set(WAYS)
