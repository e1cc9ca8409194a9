"""All files of a run are of one state of what it reads and of what computes it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import get_worker_info

from tests.clips import id_picture, make_folder, make_images, picture, save
from wrp.callbacks.writer import LabelWriter
from wrp.cli.main import main
from wrp.data.items import ClipItems
from wrp.errors import WrpError
from wrp.io.locking import locked
from wrp.io.writing import checksum, write_text
from wrp.runs import record
from wrp.runs.selftrain.stages import Run
from wrp.segmentation.module import SegmentationModule

COMMAND = ["autolabel", "data", "--out=out", "--methods=copy"]
SMALL = ["--weights=none", "--teacher-steps=1", "--train_teacher.crop=[32,32]", "--train_teacher.batch=2"]
SMALL += ["--train_teacher.network.encoder_name=tu-test_resnet"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"ride": 9, "walk": 9}, labelled=(0, 4, 8))


def labels(out: str = "out") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(out, "labels").rglob("*.png"))}


@pytest.mark.parametrize("name", ["wrp", "torch", "opencv-python-headless", "device"])
def test_what_is_left_is_not_computed_by_another_version(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--limit=1"]) == 0
    before, computing = labels(), record.computing
    with monkeypatch.context() as patch:
        patch.setattr(record, "computing", lambda device: computing(device) | {name: "9.9"})
        assert main(COMMAND) == 2
        assert f"holds labels that were computed by {name} " in capsys.readouterr().err
        assert labels() == before
        assert main([*COMMAND[:2], "--out=other", "--methods=copy"]) == 0
    assert main(COMMAND) == 0
    assert json.loads(Path("out/settings.json").read_text())["threads"] == 1
    with monkeypatch.context() as patch:  # nothing is left to be computed
        patch.setattr(record, "computing", lambda device: computing(device) | {name: "9.9"})
        assert main(COMMAND) == 0


def test_what_has_no_label_yet_is_computed_by_any_version(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computing = record.computing
    with monkeypatch.context() as patch:
        patch.setattr(record, "computing", lambda device: computing(device) | {"torch": "1.0"})
        assert main([*COMMAND, "--limit=0"]) == 0
    assert main(COMMAND) == 0
    assert json.loads(Path("out/settings.json").read_text())["computed_by"] == computing("cpu")


def during(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Make a change once, after the first interval has been written."""
    work, calls = LabelWriter.write_on_batch_end, []

    def writing(*args: Any, **kwargs: Any) -> None:
        work(*args, **kwargs)
        if not calls:
            change()
        calls.append(None)

    monkeypatch.setattr(LabelWriter, "write_on_batch_end", writing)


def other_label() -> None:
    Image.fromarray(np.full((24, 40), 7, np.uint8)).save("data/labels/walk/00008.png")


def other_frame() -> None:
    save(Path("data/frames/ride/00002.png"), picture(7))


def no_label() -> None:
    Path("data/labels/walk/00008.png").unlink(missing_ok=True)


def label_of(stem: str) -> None:
    shutil.copy("data/labels/walk/00008.png", f"data/labels/walk/{stem}.png")


def test_frames_that_change_during_a_run_are_refused_at_its_end(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = np.array(Image.open("data/frames/ride/00002.png"))
    with monkeypatch.context() as patch:
        during(patch, other_frame)
        assert main(COMMAND) == 2
    told = capsys.readouterr().err
    changed = Path("data/frames/ride/00002.png")
    assert f"frames of clip ride changed while the run was at work, the last one {changed}: restore them, and" in told
    assert not Path("out/metrics.json").exists()
    assert main(COMMAND) == 2  # and ever after
    told = capsys.readouterr().err
    assert "out holds labels of clip ride, whose frames have changed since; restore what was changed to go on" in told
    save(changed, before)
    assert main(COMMAND) == 0


def test_labels_of_frames_that_were_other_ones_meanwhile_are_not_gone_on_with(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = root / "frames/walk/00006.png"
    whole = changed.read_bytes()
    with monkeypatch.context() as patch:
        during(patch, lambda: save(changed, picture(7)))
        assert main(COMMAND) == 2
    assert "unless it has labelled some of the changed ones" in capsys.readouterr().err
    changed.write_bytes(whole)
    assert main(COMMAND) == 2
    said = "out holds labels of clip walk that were made of other frames; choose another --out, or delete it"
    assert said in capsys.readouterr().err


def test_a_network_that_changes_during_a_run_can_be_restored(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        trained = [*COMMAND[:2], f"--out=trained{seed}", "--methods=semantic", f"--seed={seed}", *SMALL, "--limit=0"]
        assert main(trained) == 0
    shutil.copy("trained0/teacher.ckpt", "teacher.ckpt")
    command = [*COMMAND[:3], "--methods=semantic", "--teacher=teacher.ckpt"]
    with monkeypatch.context() as patch:
        during(patch, lambda: shutil.copy("trained1/teacher.ckpt", "teacher.ckpt"))
        assert main(command) == 2
    told = capsys.readouterr().err
    assert "teacher.ckpt changed while the run was at work: restore it, and the same command goes on; or" in told
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "out holds a run with a teacher that differs from teacher.ckpt; restore what was changed to go on" in told
    shutil.copy("trained0/teacher.ckpt", "teacher.ckpt")
    assert main(command) == 0


@pytest.mark.parametrize("change", [other_label, no_label])
@pytest.mark.parametrize("methods", ["copy", "semantic"])
def test_nothing_is_kept_of_a_label_that_changes_during_a_run(
    methods: str,
    change: Any,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*COMMAND[:3], f"--methods={methods}", *(SMALL if methods == "semantic" else [])]
    assert main([*command[:2], "--out=undisturbed", *command[3:]]) == 0
    changed = root / "labels/walk/00008.png"
    whole, step = changed.read_bytes(), SegmentationModule.training_step
    with monkeypatch.context() as patch:
        if methods == "semantic":
            patch.setattr(SegmentationModule, "training_step", lambda *args: (change(), step(*args))[1])
        else:
            during(patch, change)
        capsys.readouterr()
        assert main(command) == 2
    told = capsys.readouterr().err
    assert "data/labels/walk/00008.png" in told
    assert (
        f"{changed} was changed" in told and "restore it, and the same command goes on" in told
    ) or change is no_label
    assert not Path("out/teacher.ckpt").exists()
    assert not Path("out/manifest.parts/walk/000004.jsonl").exists()
    if methods == "copy":  # else there is no result yet
        assert main(command) == 2
        assert f"out holds a run of before {changed} was changed or removed" in capsys.readouterr().err
    changed.write_bytes(whole)
    assert main(command) == 0
    assert labels() == {path.replace("undisturbed", "out"): found for path, found in labels("undisturbed").items()}


@pytest.mark.parametrize("stem", ["00002", "no-frame"])
def test_a_run_does_not_use_labels_that_are_drawn_meanwhile(
    stem: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*COMMAND[:2], "--out=undisturbed", *COMMAND[3:]]) == 0
    with monkeypatch.context() as patch:
        during(patch, lambda: label_of(stem))
        assert main([*COMMAND, "--limit=2"]) == 0
    added = f"{Path('data/labels/walk', stem)}.png"
    note = f"{added} came while the run was at work, which does not use it: go on afterwards with --out NEW --continue"
    assert (note in caplog.text) == (stem == "00002")
    assert f"{added} is the label of no frame" in caplog.text or stem == "00002"
    capsys.readouterr()
    assert main(COMMAND) == 2
    if stem == "00002":
        told = capsys.readouterr().err
        assert f"out holds a run that was begun without {root / 'labels/walk/00002.png'}; take it out to finish" in told
        assert "and use it then with another --out and --continue" in told
    Path(added).unlink()
    with monkeypatch.context() as patch:
        during(patch, lambda: label_of(stem))
        assert main(COMMAND) == 0
    assert labels() == {path.replace("undisturbed", "out"): found for path, found in labels("undisturbed").items()}
    capsys.readouterr()
    if stem == "00002":
        assert main(COMMAND) == 2
        assert "use it with another --out and --continue" in capsys.readouterr().err
        assert main([*COMMAND[:2], "--out=further", *COMMAND[3:], "--continue=out"]) == 0


def test_a_choice_of_keyframes_that_a_new_label_changes_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*COMMAND, "--label-every=2", "--limit=1"]
    assert main(command) == 0
    label_of("00002")
    assert main(command) == 2
    kept = root / "labels/walk/00008.png"
    assert f"out holds a run with the keyframe {kept}, which is none of those that are" in capsys.readouterr().err


def test_frames_that_are_touched_during_a_run_are_compared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during(monkeypatch, Path("data/frames/ride/00002.png").touch)
    assert main(COMMAND) == 0


def test_nothing_is_written_where_a_folder_was_deleted(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    during(monkeypatch, lambda: shutil.rmtree("out"))
    assert main(COMMAND) == 2
    assert "out was deleted or moved while this command was writing to it" in capsys.readouterr().err
    assert not Path("out").exists()


def test_nothing_is_written_where_another_folder_has_the_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        write_text(out / "a" / "mine", "")
        out.rename(tmp_path / "moved")
        out.mkdir()
        (out / ".lock").touch()
        with pytest.raises(WrpError, match="was deleted or moved"):
            write_text(out / "a" / "mine", "")
        assert not (out / "a").exists()
    write_text(out / "a" / "mine", "")


@pytest.mark.parametrize("kind", ["frames", "labels"])
def test_a_network_that_has_not_learned_from_a_clip_that_is_whole_again_is_named(
    kind: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [*COMMAND[:3], "--methods=semantic", *SMALL]
    save(root / "labels/walk/00000.png", id_picture(5))  # labels of equal frames are equal
    broken = root / kind / "walk/00004.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-30])
    assert main([*command, "--on-error=skip"]) == 3
    broken.write_bytes(whole)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert main([*command, "--on-error=skip"]) == 0
    assert "out/teacher.ckpt was trained without clip walk, which was left out then" in caplog.text


@pytest.fixture
def trained(tmp_path: Path) -> tuple[list[str], Path]:
    """A command of selftrain that has run, and its pseudo-label."""
    make_images(tmp_path / "images", {"train": 2, "val": 1})
    for name, stem in (("labelled", "train/view0"), ("unlabelled", "train/view1"), ("val", "val/view0")):
        Path(name).write_text(f"{stem}\n")
    lists = ["--labelled=labelled", "--unlabelled=unlabelled", "--val=val", "--out=out"]
    small = ["--steps=3", "--crop-size", "32", "32", "--encoder=tu-test_resnet", "--batch-size=1"]
    command = ["selftrain", "st", "images", *lists, *small]
    assert main(command) == 0
    [pseudo] = Path("out/pseudo").rglob("*.png")
    return command, pseudo


def test_pseudo_labels_of_another_state_are_made_again(trained: tuple[list[str], Path]) -> None:
    command, pseudo = trained
    whole, note = pseudo.read_bytes(), Path("out/pseudo/student.0.json")
    noted = note.read_text()
    for state in ("another", "another network", "note lost", "note damaged"):
        save(pseudo, id_picture(3))
        if state == "another network":
            note.write_text(json.dumps({pseudo.stem: "0123456789abcdef " + checksum(pseudo.read_bytes())}))
        elif state == "note lost":
            note.unlink()
        elif state == "note damaged":
            note.write_text(noted[:-5])
        assert main(command) == 0
        assert pseudo.read_bytes() == whole
        assert note.read_text() == noted


@pytest.mark.parametrize("name", ["labels/train/view0.png", "images/train/view0.png", "images/train/view1.png"])
def test_images_that_have_changed_between_stages_are_refused(
    name: str,
    trained: tuple[list[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, _ = trained
    image = Path("images", name)
    whole = image.read_bytes()
    save(image, id_picture(3) if "labels" in name else picture(11))
    assert main(command) == 2
    assert "out holds a run whose images or labels have changed since" in capsys.readouterr().err
    image.write_bytes(whole)
    work = Run.load

    def loading(*args: Any) -> Any:
        save(image, id_picture(3) if "labels" in name else picture(11))
        return work(*args)

    monkeypatch.setattr(Run, "load", loading)
    Path("out/student.ckpt").unlink()
    Path("out/pseudo/student.0.json").unlink()
    assert main(command) == 2
    assert "changed while the run was at work" in capsys.readouterr().err


def test_a_loader_that_is_killed_is_told_on_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = ClipItems._read

    def reading(*args: Any) -> Any:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does for want of memory
        return work(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ClipItems, "_read", reading)
        assert main([*COMMAND, "--workers=1"]) == 2
    error = capsys.readouterr().err
    assert "DataLoader worker (pid" in error
    assert "there is too little memory for this, or a process was ended" in error
    assert main(COMMAND) == 0


def test_too_little_memory_is_told_on_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> None:
        raise MemoryError("Unable to allocate 5 TiB")

    monkeypatch.setattr(ClipItems, "_read", failing)
    assert main(COMMAND) == 2
    assert "wrp: error: Unable to allocate 5 TiB: there is too little memory" in capsys.readouterr().err
