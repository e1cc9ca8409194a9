"""Runs that continue an earlier one: what is taken over, what is made again, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.clips import HEIGHT, WIDTH, id_picture, make_folder, save
from wrp.cli.main import main
from wrp.data.index import ClipIndex
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.io import linking
from wrp.io.checkpoints import labels_seen_by
from wrp.io.label_map import numbered_classes
from wrp.runs import networks
from wrp.runs.config import Settings
from wrp.runs.job import Job
from wrp.runs.processes import Processes

METHODS = ["--methods", "copy,motion"]
QUICK = ["--teacher-steps", "2", "--refiner-steps", "2", "--weights", "none"]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of a run, and the run, old; to be copied before the data are changed."""
    folder = tmp_path_factory.mktemp("continued")
    root = make_folder(folder / "data", {"walk": 22, "run": 7}, labelled=range(0, 19, 3))
    assert main(["autolabel", str(root), "--out", str(folder / "old"), *METHODS]) == 0
    return folder


@pytest.fixture
def root(before: Path, tmp_path: Path) -> Path:
    """A copy of the data, in which a keyframe is changed."""
    root = shutil.copytree(before / "data", tmp_path / "data")
    save(root / "labels/walk/00012.png", id_picture(20))
    return root


def content(out: Path) -> dict[str, bytes]:
    """All that a run says of frames: its pictures, the manifest, the estimate and the calibration."""
    files = [*out.glob("*/**/*.png"), *(out / name for name in ("manifest.jsonl", "manifest.seen.json"))]
    files += [out / name for name in ("estimate.json", "calibration.json", "calibration-counts.json", "held_out.json")]
    return {str(file.relative_to(out)): file.read_bytes() for file in files if "report" not in file.parts}


def states(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())["continued"]
    return found


def labelled_in_full(root: Path, old: Path, out: Path, *arguments: str) -> dict[str, bytes]:
    """What a run makes that takes nothing over but the calibration."""
    command = ["autolabel", str(root), "--out", str(out), *arguments]
    assert main([*command, "--limit", "0"]) == 0
    shutil.copy(old / "calibration.json", out)
    (out / "held_out.json").unlink()  # told by its own calibration
    assert main(command) == 0
    return content(out)


def test_what_keyframes_touch_is_made_again_and_nothing_else(before: Path, root: Path, tmp_path: Path) -> None:
    (root / "labels/walk/00003.png").unlink()
    save(root / "labels/walk/00021.png", id_picture(21))  # the last interval has the same frames, and one keyframe more
    make_folder(root, {"hop": 4}, labelled=(1,))
    old, new, untouched = before / "old", tmp_path / "new", states(before / "old")
    assert main(["autolabel", str(root), "--out", str(new), *METHODS, "--continue", str(old)]) == 0
    found = record(new)
    names = {what: [f"walk/{frame:05d}"] for what, frame in (("changed", 12), ("added", 21), ("removed", 3))}
    assert found["keyframes"] == names
    assert found["clips"] == {"new": ["hop"], "other": []}
    assert found["intervals"] == {"all": 10, "kept": 4}
    assert (found["steps"], found["calibrated"]) == (0, False)
    assert "walk/00012" in [name for name, _ in found["labels"]["most"]]
    assert "Keyframes that are changed: walk/00012." in (new / "report.md").read_text()
    assert "Labels that have changed most" in (new / "report.html").read_text()
    for name, links in {"walk/00007": 2, "walk/00016": 2, "run/00001": 2, "walk/00010": 1, "walk/00019": 1}.items():
        assert (new / f"labels/{name}.png").stat().st_nlink == links
    assert content(new) == labelled_in_full(root, old, tmp_path / "full", *METHODS)
    assert states(old) == untouched


def test_a_run_that_was_stopped_while_it_took_over_goes_on(
    before: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shutil.copytree(before / "old", tmp_path / "old")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    corrected = np.full_like(id_picture(0), 7)
    save(old / "labels/walk/00004.png", corrected)  # by hand, in the result
    (old / "labels/walk/00008.png").unlink()
    command = ["autolabel", str(root), *METHODS, "--continue", str(old), "--out"]
    with monkeypatch.context() as patch:
        patch.setattr(linking.os, "link", failing_after(0, linking.os.link))
        assert main([*command, str(whole)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(linking.os, "link", failing_after(9, linking.os.link))
        patch.setattr(linking.shutil, "copyfile", failing)
        with pytest.raises(RuntimeError):
            main([*command, str(stopped)])
    assert main([*command, str(stopped)]) == 0
    assert content(whole) == content(stopped)
    assert record(whole)["intervals"] == {"all": 9, "kept": 6}
    assert (whole / "labels/walk/00016.png").stat().st_nlink == 1  # a copy, where there are no links
    assert np.array_equal(np.array(Image.open(whole / "labels/walk/00004.png")), corrected)
    shutil.rmtree(old)
    assert main([*command, str(stopped)]) == 0  # what is taken over is there


def failing(*_: Any) -> None:
    raise RuntimeError("stopped")


def failing_after(count: int, function: Any) -> Any:
    """A function that works so many times."""
    left = iter(range(count))

    def link(source: Path, path: Path) -> None:
        if next(left, None) is None:
            raise OSError("no links")
        function(source, path)

    return link


def test_nothing_changed_and_everything_new(before: Path, tmp_path: Path) -> None:
    old, same, other = before / "old", tmp_path / "same", tmp_path / "other"
    command = ["autolabel", str(before / "data"), *METHODS, "--continue", str(old), "--out"]
    assert main([*command, str(same)]) == 0
    assert content(same) == content(old)
    assert record(same)["intervals"] == {"all": 9, "kept": 9}
    root = shutil.copytree(before / "data", tmp_path / "data")
    for clip in ("walk", "run"):
        save(root / f"frames/{clip}/00005.png", id_picture(3))
    command[1] = str(root)
    assert main([*command, str(other)]) == 0
    assert record(other)["clips"] == {"new": [], "other": ["run", "walk"]}
    assert record(other)["calibrated"]


def test_what_is_never_labelled_and_which_clips_there_are_counts_as_well(before: Path, tmp_path: Path) -> None:
    never = tmp_path / "hood.png"  # beside the runs
    save(never, np.pad(np.full((4, WIDTH), 255, np.uint8), ((HEIGHT - 4, 0), (0, 0))))
    command = ["autolabel", str(before / "data"), "--clips", "run", *METHODS, "--out"]
    alone, hood, again = tmp_path / "alone", tmp_path / "hood", tmp_path / "again"
    assert main([*command, str(alone), "--continue", str(before / "old")]) == 0
    assert record(alone)["intervals"] == {"all": 2, "kept": 2}
    [told] = json.loads((alone / "held_out.json").read_text())["labels"]  # the other clip is not in this run
    assert told["clip"] == "run"
    assert json.loads((alone / "estimate.json").read_text())["motion"]["labels"] == 1
    assert main([*command, str(hood), "--never", str(never), "--continue", str(before / "old")]) == 0
    assert record(hood)["clips"] == {"new": [], "other": ["run"]}
    assert (np.array(Image.open(hood / "labels/run/00001.png"))[-4:] == 255).all()
    assert main([*command, str(again), "--never", str(never), "--continue", str(hood)]) == 0
    assert record(again)["intervals"] == {"all": 2, "kept": 2}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--seed", "1"], "was made with --seed 0, this command has --seed 1: give the same"),
        (["--min-confidence", "0.5"], "with --min-confidence 0.0, this command has --min-confidence 0.5"),
        (["--methods", "motion"], "was made with --methods copy,motion, this command has --methods motion: give"),
        (["--flow", "dis"], "was made with --flow dis-best, this command has --flow dis"),
        (["--continue", "data"], "is no finished run"),
        (["--out", "old/new"], "is in"),
        (["--continue-steps", "-1"], "--continue-steps must be in 0 … 2147483647, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(
    before: Path, tmp_path: Path, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(before / "data")
    (tmp_path / "old").symlink_to(before / "old")
    command = ["autolabel", "data", "--out", "new", *METHODS, "--continue", "old"]
    assert main([*command, *arguments]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert "Traceback" not in said
    assert not (tmp_path / "new").exists()


def test_other_classes_are_refused_and_steps_need_a_run(
    before: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "classes.yaml").write_text((root / "classes.yaml").read_text().replace("car", "bus"))
    command = ["autolabel", str(root), "--out", "new", *METHODS]
    for more, problem in {
        ("--continue", str(before / "old")): "has the classes road, sky, car, expected road, sky, bus",
        ("--continue-steps", "5"): "--continue-steps 5 needs --continue DIR",
    }.items():
        assert main([*command, *more]) == 2
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("begun", ["continued.json", "teacher-unfinished.ckpt"])
def test_a_teacher_that_has_learned_already_keeps_its_recipe(
    begun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained: list[str | None] = []
    monkeypatch.setattr(networks, "train_teacher", lambda job, weights, *_: trained.append(weights))
    index = ClipIndex(Path("data"), "folder", numbered_classes(3), ())
    job = Job(Settings("data", str(tmp_path), methods="semantic"), index, FlowCache(DIS()), Processes())
    [stage] = networks.network_stages(job)
    for found in (("imagenet", None), (None, "no network")):  # the weights cannot be had any more the second time
        monkeypatch.setattr(networks, "find_weights", lambda _, found=found: found)
        stage.run()
        (tmp_path / begun).touch()
    assert trained == ["imagenet", "imagenet"]
    assert json.loads((tmp_path / "weights.json").read_text()) == {"encoder": "imagenet"}
    assert "from scratch" not in caplog.text


@pytest.mark.slow
def test_networks_stay_or_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "data", {"walk": 7}, labelled=(0, 2, 4, 6))
    old, same, further = (tmp_path / name for name in ("old", "same", "further"))
    command = ["autolabel", str(root), *QUICK, "--methods", "motion,refine", "--out"]
    assert main([*command, str(old)]) == 0
    save(root / "labels/walk/00000.png", id_picture(9))
    command += [str(same), "--continue", str(old)]
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    assert "propagate: 2 frames in 1 intervals" in capsys.readouterr().out
    assert main(command) == 0
    assert record(same)["intervals"] == {"all": 3, "kept": 2}
    networks = [(out / f"{name}.ckpt").read_bytes() for out in (old, same) for name in ("teacher", "refiner")]
    assert networks[:2] == networks[2:]
    command[command.index(str(same))] = str(further)
    assert main([*command, "--continue-steps", "1"]) == 0
    assert record(further)["intervals"] == {"all": 3, "kept": 0}
    assert "trained on for 1 steps" in (further / "report.md").read_text()
    for name in ("teacher", "refiner"):
        assert labels_seen_by(further / f"{name}.ckpt") > labels_seen_by(old / f"{name}.ckpt")
        assert (further / f"{name}.ckpt").read_bytes() != (old / f"{name}.ckpt").read_bytes()
    given = ["--teacher", str(old / "teacher.ckpt"), "--refiner", str(old / "refiner.ckpt")]
    assert content(same) == labelled_in_full(root, old, tmp_path / "full", "--methods", "motion,refine", *given)
