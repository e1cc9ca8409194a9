"""Runs that would hang, go on though they were told to stop, or fail at every try in the same way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import make_folder, make_images
from tests.forked import Forked
from wrp import (
    CycleExamples,
    PropagationData,
    PropagationModule,
    RefinementData,
    SegmentationData,
    SegmentationModule,
)
from wrp.callbacks import writer
from wrp.cli.main import main
from wrp.data import checking as check
from wrp.options import SamplingArgs, SelectArgs
from wrp.report import markdown as report
from wrp.runs.selftrain import stages as selftrain
from wrp.structures import ClipBatch, FrameBatch, RefinerExamples

SOURCES = ["--methods=copy,motion", "--label-every=4"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"ride": 9, "walk": 9})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A command without its output folder, and a run of it that is complete; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("whole")
    command = ["autolabel", str(make_folder(folder / "data", {"ride": 9, "walk": 9})), *SOURCES]
    assert main([*command, f"--out={folder / 'out'}"]) == 0
    return command, folder / "out"


@pytest.fixture
def labelled(whole: tuple[list[str], Path], tmp_path: Path) -> tuple[list[str], Path]:
    """A command, and its output folder, where it was run already."""
    out = Path(shutil.copytree(whole[1], tmp_path / "out"))
    return [*whole[0], f"--out={out}"], out


@pytest.fixture(scope="module")
def by_teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """As `whole`, with a teacher that the run has trained."""
    folder = tmp_path_factory.mktemp("teacher")
    command = ["autolabel", str(make_folder(folder / "data", {"ride": 9, "walk": 9})), "--methods=semantic"]
    command += ["--label-every=4", "--weights=none", "--teacher-steps=1"]
    assert main([*command, f"--out={folder / 'out'}"]) == 0
    return command, folder / "out"


def tree(folder: Path) -> dict[str, bytes]:
    kinds = ("labels", "confidence", "provenance", "methods")
    paths = [path for kind in kinds for path in sorted((folder / kind).rglob("*.png"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def tell(number: signal.Signals) -> None:
    """Send this process a signal whose handler is called while a generator is finalised: what it raises is dropped."""

    def told() -> Iterator[None]:
        try:
            yield
        finally:
            os.kill(os.getpid(), number)
            for _ in range(100):  # the handler is called between two of these
                pass

    started = told()
    next(started)
    del started


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(
    ("home", "name"),
    [
        (check, "_check_clip"),
        (writer, "_entry"),
        (PropagationModule, "count_confidence"),
        (SegmentationModule, "training_step"),
        (report, "draw_panel"),
    ],
    ids=["checking", "writing", "calibrating", "training", "reporting"],
)
def test_a_signal_that_nobody_hears_stops_the_run_all_the_same(
    home: Any,
    name: str,
    number: signal.Signals,
    code: int,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, out, calls = getattr(home, name), tmp_path / "out", []

    def tell_and_work(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:
            tell(number)
        return work(*args, **kwargs)

    command = ["autolabel", str(root), f"--out={out}", "--label-every=4", "--weights=none", "--teacher-steps=3"]
    methods = "semantic" if name == "training_step" else "motion"
    with monkeypatch.context() as patch:
        patch.setattr(home, name, tell_and_work)
        assert main([*command, f"--methods={methods}"]) == code
    assert "the same command goes on from there" in capsys.readouterr().err
    assert 0 < len(calls) < 3
    assert not (out / "metrics.json").is_file() or name == "draw_panel"
    assert main([*command, f"--methods={methods}"]) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_signal_that_nobody_hears_stops_the_verbs_of_lightning(
    verb: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"fit": "training", "validate": "validation"}.get(verb, verb)
    work, calls = getattr(SegmentationModule, f"{step}_step"), []

    def tell_and_work(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:
            tell(signal.SIGTERM)
        return work(*args, **kwargs)

    monkeypatch.setattr(SegmentationModule, f"{step}_step", tell_and_work)
    data = ["--data=SegmentationData", f"--data.root={root}", "--data.num_classes=3", "--data.val.overlap=true"]
    data += ["--data.sampling.crop_size=[32,32]", "--data.sampling.batch_size=1"]
    more = ["--trainer.accelerator=cpu", "--trainer.logger=false"]
    model = ["--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"]
    assert main([verb, *model, *data, *more]) == 143
    assert len(calls) == 1


def test_a_signal_of_before_stops_nothing(labelled: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    command, _ = labelled
    work = check._check_clip
    with monkeypatch.context() as patch:
        patch.setattr(check, "_check_clip", lambda *args: (tell(signal.SIGTERM), work(*args))[1])
        assert main(command) == 143
    assert main(command) == 0


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
@pytest.mark.parametrize("kind", ["methods/copy", "provenance", "confidence", "labels"])
def test_a_file_that_is_lost_is_made_again(kind: str, damage: str, labelled: tuple[list[str], Path]) -> None:
    command, out = labelled
    before = tree(out)
    lost = out / kind / "walk" / "00002.png"
    whole = lost.read_bytes()
    lost.unlink()
    if damage != "missing":
        lost.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    assert main(command) == 0
    assert tree(out) == before
    assert main(command) == 0


def test_what_was_corrected_is_kept_where_its_interval_is_made_again(labelled: tuple[list[str], Path]) -> None:
    command, out = labelled
    corrected = out / "labels" / "walk" / "00002.png"
    image = Image.open(corrected)
    pixels = np.full_like(np.array(image), 7)
    changed = Image.fromarray(pixels)
    changed.putpalette(image.getpalette() or [])
    changed.save(corrected)
    mine, lost = corrected.read_bytes(), out / "methods" / "copy" / "walk" / "00001.png"
    lost.unlink()
    for _ in range(2):
        assert main(command) == 0
        assert corrected.read_bytes() == mine
        assert lost.is_file()


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
@pytest.mark.parametrize("manifest", [True, False])
def test_what_was_corrected_is_kept_where_its_note_is_lost(
    damage: str, manifest: bool, labelled: tuple[list[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    command, out = labelled
    before = tree(out)
    corrected = out / "labels" / "walk" / "00002.png"
    Image.fromarray(np.full((24, 40), 7, np.uint8)).save(corrected)
    mine = corrected.read_bytes()
    part = out / "manifest.parts" / "walk" / "000000.jsonl"
    noted = part.read_bytes()
    part.unlink()
    if damage != "missing":
        part.write_bytes(noted[: len(noted) // 2 if damage == "cut" else 0])
    if not manifest:
        (out / "manifest.jsonl").unlink()
    caplog.clear()
    assert main(command) == 0
    assert tree(out) == before | {"labels/walk/00002.png": mine}
    kept = [message for message in caplog.messages if message.endswith("it is kept")]
    assert set(kept) == {f"{corrected} is not what was written there; it is kept"}


def test_what_a_killed_run_has_begun_is_written_over(labelled: tuple[list[str], Path]) -> None:
    """There, a picture that differs is of the same run, begun with other files or another version."""
    command, out = labelled
    before = tree(out)
    part = out / "manifest.parts" / "walk" / "000000.jsonl"
    part.rename(part.with_suffix(".begun"))
    (out / "manifest.jsonl").unlink()
    Image.fromarray(np.full((24, 40), 7, np.uint8)).save(out / "labels" / "walk" / "00002.png")
    assert main(command) == 0
    assert tree(out) == before
    assert not list(out.rglob("*.begun"))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_run_without_its_settings_is_refused(
    damage: str, labelled: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, out = labelled
    before = tree(out)
    if damage == "cut":
        (out / "settings.json").write_text("{")
    else:
        (out / "settings.json").unlink()
    assert main([*command, "--methods=motion", "--label-every=2"]) == 2
    assert "restore it from a copy, or choose another --out" in capsys.readouterr().err
    assert tree(out) == before


def test_a_fold_without_a_class_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "data", {"walk": 9}, labelled=(0, 4, 8))
    for number in (0, 8):
        Image.fromarray(np.full((24, 40), 255, np.uint8)).save(root / f"labels/walk/0000{number}.png")
    command = ["autolabel", str(root), f"--out={tmp_path / 'out'}", "--methods=refine", "--teacher-folds=3"]
    assert main(command) == 2
    assert "labels of fold 2 of --teacher-folds 3 to learn from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_place_of_a_file_is_named_with_a_remedy(
    labelled: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, out = labelled
    (out / "metrics.json").unlink()
    (out / "metrics.json").mkdir()
    (out / "metrics.json" / "x").touch()
    assert main(command) == 2
    assert "move away the file or folder that is in the way" in capsys.readouterr().err


def test_a_check_that_is_told_to_stop_reads_no_more_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, work = [], check._read

    def counting(*args: Any) -> Any:
        read.append(None)
        time.sleep(0.05)
        return work(*args)

    def interrupted(results: Iterator[Any], **_: Any) -> Iterator[Any]:
        yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "_read", counting)
    monkeypatch.setattr(check, "progress", interrupted)
    assert main(["data", "check", str(root)]) == 130
    assert len(read) < 10


@pytest.mark.parametrize("name", ["calibration.json", "stages.json", "weights.json"])
def test_a_record_that_can_be_made_again_is(name: str, by_teacher: tuple[list[str], Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(by_teacher[1], tmp_path / "out"))
    command = [*by_teacher[0], f"--out={out}"]
    before = (out / name).read_bytes()
    (out / "labels/walk/00002.png").unlink()  # or there was nothing to do
    (out / name).write_bytes(before[: len(before) // 2])
    assert main(command) == 0
    if name == "calibration.json":
        assert (out / name).read_bytes() == before


def test_a_network_that_is_damaged_is_named_with_a_remedy(
    by_teacher: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(by_teacher[1], tmp_path / "out"))
    command = [*by_teacher[0], f"--out={out}"]
    (out / "teacher.ckpt").write_bytes(b"damaged")
    assert main(command) == 2
    assert "teacher.ckpt cannot be read as a checkpoint" in capsys.readouterr().err
    (out / "teacher.ckpt").unlink()
    assert main(command) == 0


def test_a_calibration_that_was_stopped_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, count = [], PropagationModule.count_confidence

    def stopping(module: PropagationModule, batch: ClipBatch) -> Any:
        if len(counted) == stop:
            raise KeyboardInterrupt
        counted.append((batch.clip, batch.queries))
        return count(module, batch)

    monkeypatch.setattr(PropagationModule, "count_confidence", stopping)
    stop = 1000
    command = ["autolabel", str(root), "--methods=motion,vote", "--label-every=2"]
    assert main([*command, f"--out={tmp_path / 'whole'}"]) == 0
    every = counted.copy()
    assert len(every) == 6
    counted.clear()
    for stop in (2, 3, 1000):
        assert main([*command, f"--out={tmp_path / 'out'}"]) == (0 if stop == 1000 else 130)
    assert counted == every  # each label once
    assert (tmp_path / "out/calibration.json").read_bytes() == (tmp_path / "whole/calibration.json").read_bytes()
    assert not list((tmp_path / "out").glob("*unfinished*"))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"checkpoint_hashes": {}, "counted": [{"motion": 3}]}', '{"counted": 3}']
)
def test_what_a_calibration_has_left_is_not_trusted(
    content: str, whole: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, complete = whole
    assert main([*command, f"--out={tmp_path / 'out'}", "--limit=0"]) == 0
    (tmp_path / "out/calibration.json").unlink()
    (tmp_path / "out/calibration-unfinished.json").write_text(content)
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out/calibration.json").read_bytes() == (complete / "calibration.json").read_bytes()


def test_a_pseudo_label_that_is_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_images(tmp_path / "images", {"train": 3})
    for name, view in (("labelled", 0), ("unlabelled", 1), ("val", 2)):
        (tmp_path / name).write_text(f"train/view{view}\n")
    lists = [f"--{name}={tmp_path / name}" for name in ("labelled", "unlabelled", "val")]
    command = [
        "selftrain",
        "st",
        str(root),
        f"--out={tmp_path / 'out'}",
        "--steps=3",
        "--crop-size",
        "32",
        "32",
        *lists,
    ]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # behind the pseudo-labels
        patch.setattr(selftrain.Run, "test", stop)
        assert main(command) == 130
    [pseudo] = (tmp_path / "out/pseudo").rglob("*.png")
    whole = pseudo.read_bytes()
    pseudo.write_bytes(whole[:-20])
    (tmp_path / "out/student.ckpt").unlink()
    assert main(command) == 0
    assert pseudo.read_bytes() == whole


def small_shared_memory() -> list[str]:
    """A command in front of another one that has the shared memory of a container; empty where that is impossible."""
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    possible = shutil.which("unshare") and subprocess.run([*command, "true"], check=False, capture_output=True)
    return command if possible and possible.returncode == 0 else []


@pytest.mark.slow
@pytest.mark.skipif(not small_shared_memory(), reason="shared memory cannot be limited here")
def test_loader_processes_need_no_shared_memory(tmp_path: Path) -> None:
    """64 MB are Docker's default; here it is 1 MB, and an interval takes three."""
    assert main(["data", "synthetic", str(tmp_path / "scene"), "--frames=25", "--size=320x192"]) == 0
    command = [sys.executable, "-m", "wrp", "autolabel", str(tmp_path / "scene"), "--label-every=24", "--methods=copy"]
    done = subprocess.run(
        [*small_shared_memory(), *command, f"--out={tmp_path / 'out'}", "--workers=2"], timeout=200, check=False
    )
    assert done.returncode == 0
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 25


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "refinement", "propagation"])
def test_batches_of_a_loader_process_are_those_of_none(task: str, root: Path) -> None:
    given: dict[str, Any] = {"num_classes": 3, "root": str(root), "select": SelectArgs(label_every=4)}

    def batches(workers: int) -> list[Any]:
        if task == "segmentation":
            sampling = SamplingArgs((16, 16))
            return list(SegmentationData(**given, sampling=sampling, workers=workers).train_dataloader())
        if task == "refinement":
            examples = CycleExamples(crop_size=(16, 16))
            return list(RefinementData(**given, examples=examples, workers=workers).train_dataloader())
        return list(PropagationData(**given, workers=workers).predict_dataloader())

    alone, others = batches(0), batches(1)
    assert len(alone) == len(others) > 0
    for one, other in zip(alone, others, strict=True):
        assert type(one) is type(other)
        if isinstance(one, FrameBatch):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
            assert not other.images.is_shared()
            other.images += 1  # it may be written to
        elif isinstance(one, RefinerExamples):
            for part in fields(one.inputs):
                assert torch.equal(getattr(one.inputs, part.name), getattr(other.inputs, part.name))
            assert torch.equal(one.labels, other.labels)
            assert (one.clips, one.stems) == (other.clips, other.stems)
        else:
            assert all(torch.equal(*pair) for pair in zip(one.frames, other.frames, strict=True))
            assert {k: v.tolist() for k, v in one.labels.items()} == {k: v.tolist() for k, v in other.labels.items()}


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def lives(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks at processes as Linux lists them")
def test_a_run_whose_loaders_outlive_it_goes_on_at_once(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "data", {"walk": 60, "ride": 60}), tmp_path / "out"
    command = ["autolabel", str(root), f"--out={out}", "--methods=copy", "--workers=2", "--label-every=20"]
    process, deadline = Forked(command), time.monotonic() + 300
    while not list(out.glob("labels/*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    loaders = children(process.pid)
    process.kill()
    assert main(command) == 0
    assert len(list((out / "labels").rglob("*.png"))) == 120
    assert len(loaders) >= 2
    while any(map(lives, loaders)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(lives, loaders))


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    """However long a forked process lives."""
    from wrp.io.locking import locked

    with locked(tmp_path):
        forked, told = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            os.write(told, b".")
            time.sleep(20)
            os._exit(0)
        os.read(forked, 1)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.skipif(sys.platform == "win32", reason="there are no groups of processes")
def test_a_group_of_processes_that_is_told_to_stop_does(
    number: signal.Signals, code: int, root: Path, tmp_path: Path
) -> None:
    """As by Ctrl-C: the loaders get the signal as well."""
    model = ["--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"]
    data = ["--data=SegmentationData", f"--data.root={root}", "--data.num_classes=3"]
    data += ["--data.sampling.crop_size=[32,32]", "--data.sampling.batch_size=2", "--data.val.overlap=true"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    more = ["--data.workers=2", "--trainer.max_steps=100000", f"--trainer.default_root_dir={tmp_path / 'fit'}"]
    process = Forked(["fit", *model, *data, *trainer, *more], before="import os; os.setsid()")
    deadline = time.monotonic() + 300
    while len(children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    told = time.monotonic()
    os.killpg(process.pid, number)
    done = process.wait(120)
    assert done.returncode == code, done.stderr[-2000:]
    assert time.monotonic() - told < 15
