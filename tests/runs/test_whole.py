"""What goes wrong around a run: disks, folders, other processes, networks; what is left is whole, and it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.clips import make_folder, save
from tests.forked import wrp
from wrp import PropagationModule
from wrp.callbacks.checkpoints import WholeCheckpointIO
from wrp.cli.main import main
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.errors import WrpError
from wrp.flow.dis import DIS
from wrp.io.locking import locked
from wrp.io.opening import parse_json
from wrp.structures import IGNORE_INDEX, ClipBatch, RefinerInput

CLIPS = {"ride": 9, "walk": 9}
MOTION = ["--methods=motion", "--label-every=4"]

# The second half of what the N-th picture would hold is lost, and the process with it.
KILLED_INSIDE = """
import os, pathlib, signal
count, write = [0], pathlib.Path.write_bytes
def write_bytes(self, content):
    count[0] += 1
    if count[0] == {}:
        write(self, bytes(content)[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, content)
pathlib.Path.write_bytes = write_bytes
"""

FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("faults") / "clips", CLIPS, labelled=range(9))


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["autolabel", str(root), f"--out={out}", *MOTION]) == 0
    return out


def same_labels(out: Path, whole: Path) -> None:
    names = sorted(path.relative_to(whole) for path in whole.rglob("*.png") if "report" not in path.parts)
    assert len(names) > 40
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert not list(out.rglob(".*.tmp"))
    assert (out / "manifest.jsonl").read_text() == (whole / "manifest.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 17, 30])
def test_a_run_that_is_killed_inside_a_write_goes_on(number: int, root: Path, whole: Path, tmp_path: Path) -> None:
    command = ["autolabel", str(root), f"--out={tmp_path / 'out'}", *MOTION]
    assert wrp(*command, before=KILLED_INSIDE.format(number)).returncode == -signal.SIGKILL
    assert list((tmp_path / "out").rglob(".*.tmp"))
    assert main(command) == 0
    same_labels(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("size", [700, 10_000])
def test_a_full_disk_is_told_and_the_run_goes_on(size: int, root: Path, whole: Path, tmp_path: Path) -> None:
    command = ["autolabel", str(root), f"--out={tmp_path / 'out'}", *MOTION]
    stopped = wrp(*command, before=FULL.format(size))
    assert stopped.returncode == 2
    assert "File too large" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert main(command) == 0
    same_labels(tmp_path / "out", whole)


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_checkpoint(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    teacher = ["--methods=semantic", "--label-every=4", "--weights=none", "--teacher-steps=1"]
    stopped = wrp("autolabel", str(root), f"--out={out}", *teacher, before=FULL.format(2**20))
    assert stopped.returncode == 2
    assert "File too large" in stopped.stderr
    assert not list(out.glob("*.ckpt"))
    assert not list(out.glob(".*.tmp"))


def test_a_checkpoint_is_replaced_when_the_next_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_training_of_lightnings_writes_its_checkpoints_whole(root: Path, tmp_path: Path) -> None:
    command = ["fit", "--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"]
    command += ["--data=SegmentationData", f"--data.root={root}", "--data.num_classes=3"]
    command += ["--data.sampling.crop_size=[32,32]", "--data.select.label_every=4", "--trainer.max_steps=1"]
    command += [f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false"]
    stopped = wrp(*command, before=FULL.format(2**20))
    assert stopped.returncode == 2
    assert "File too large" in stopped.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("out", ["closed", "closed/out"])
def test_a_folder_that_may_not_be_written_to_is_told_first(out: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # who may write everywhere, unless this right is taken away
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv")
        prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    command = [*prefix, sys.executable, "-m", "wrp", "autolabel", str(root), f"--out={tmp_path / out}", *MOTION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{tmp_path / out} cannot be written: you may not write to {tmp_path / 'closed'}" in done.stderr
    assert "Checking files" not in done.stderr


def test_two_runs_do_not_write_to_one_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(root), f"--out={out}", *MOTION]
    with locked(out):
        assert main(command) == 2
        assert f"another process is writing to {out}" in capsys.readouterr().err
        assert not (out / "settings.json").exists()
    with locked(out, shared=True):
        assert main([*command, "--limit=0"]) == 2
    assert main([*command, "--limit=0"]) == 0
    with locked(out, shared=True):
        assert main([*command, "--shard=1/2"]) == 0


def test_the_lock_of_a_killed_process_is_gone(root: Path, tmp_path: Path) -> None:
    holder = "import os, signal; from pathlib import Path; from wrp.io.locking import locked\n"
    holder += f"with locked(Path({str(tmp_path / 'out')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", holder], check=False).returncode == -signal.SIGKILL
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", *MOTION]) == 0


def test_labels_of_other_networks_are_not_mixed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["autolabel", str(root), f"--out={out}", "--methods=semantic", "--label-every=4", "--weights=none"]
    assert main([*command, "--teacher-steps=1", "--limit=1"]) == 0
    checkpoint = torch.load(out / "teacher.ckpt", weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(0.1)
    torch.save(checkpoint, out / "teacher.ckpt")
    assert main([*command, "--teacher-steps=1"]) == 2
    assert f"{out} holds labels from another teacher checkpoint than the current one" in capsys.readouterr().err


def test_what_was_trained_with_another_teacher_is_not_taken(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["--label-every=4", "--weights=none", "--teacher-steps=1", "--refiner-steps=1"]
    assert main(["autolabel", str(root), f"--out={tmp_path / 'first'}", "--methods=semantic", "--limit=0", *steps]) == 0
    teacher, out = shutil.copy(tmp_path / "first/teacher.ckpt", tmp_path / "given.ckpt"), tmp_path / "out"
    command = ["autolabel", str(root), f"--out={out}", f"--teacher={teacher}", "--methods=refine", "--limit=0", *steps]
    assert main(command) == 0
    assert main(command) == 0
    checkpoint = torch.load(teacher, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(0.1)
    torch.save(checkpoint, teacher)
    assert main(command) == 2
    assert f"{out} holds a run with a teacher that differs from {teacher}" in capsys.readouterr().err


def test_a_student_without_a_hidden_class_to_be_scored_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_folder(tmp_path / "clips", {"walk": 5}, labelled=(0, 2, 4)), tmp_path / "out"
    label = root / "labels/walk/00002.png"
    Image.fromarray(np.full_like(np.array(Image.open(label)), 255)).save(label)
    command = ["autolabel", str(root), f"--out={out}", "--methods=motion", "--label-every=2", "--weights=none"]
    assert main([*command, "--student", "--teacher-steps=1"]) == 0
    assert "student network alone: mIoU –" in capsys.readouterr().out
    assert parse_json((out / "metrics.json").read_text())["student"] == {"miou": None, "ece": None}


def test_labels_of_other_frames_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_folder(tmp_path / "clips", CLIPS, labelled=range(9)), tmp_path / "out"
    command = ["autolabel", str(root), f"--out={out}", *MOTION]
    assert main([*command, "--limit=1"]) == 0
    [part] = (out / "manifest.parts").glob("*/*.jsonl")
    clip, name = part.parent.name, json.loads(part.read_text().splitlines()[0])["frame"]
    frame = root / "frames" / clip / f"{name}.png"
    pixels = np.array(Image.open(frame))
    pixels[0, 0] ^= 1
    save(frame, pixels)
    assert main(command) == 2
    assert f"{out} holds labels of clip {clip}, whose frames have changed since" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut short", "corrected by hand"])
def test_files_that_have_changed_since_are_seen(
    damage: str, root: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    path = out / "labels" / "walk" / "00003.png"
    written = path.read_bytes()
    if damage == "cut short":
        path.write_bytes(written[: len(written) // 2])
    else:
        with Image.open(path) as image:
            image.putpixel((0, 0), 7)
            image.save(path)
    changed = path.read_bytes()
    with caplog.at_level("WARNING", "wrp"):
        assert main(["autolabel", str(root), f"--out={out}", *MOTION]) == 0
    kept = damage == "corrected by hand"
    assert path.read_bytes() == (changed if kept else written)
    assert (f"{path} is not what was written there; it is kept" in caplog.text) == kept


class Broken(nn.Module):
    """A teacher of three classes, sure of the second, that says nothing finite about some pixels of its first row."""

    num_classes = 3

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def probabilities(self, images: Tensor) -> Tensor:
        probs = torch.zeros(len(images), 3, *images.shape[2:])
        probs[:, 1] = 1.0
        probs.flatten(2)[..., : self.pixels] = torch.nan
        return probs


def first_interval(root: Path) -> ClipBatch:
    index = open_index(root)
    batch: ClipBatch = IntervalItems(index.clips, index.label_map)[0]
    return batch


@pytest.mark.parametrize("method", ["semantic", "inpaint"])
def test_what_is_not_finite_is_no_label(
    method: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batch = first_interval(make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2)))
    with caplog.at_level("WARNING", "wrp"):
        [middle] = [
            result
            for result in PropagationModule(3, [method], Broken(4), flow=DIS("ultrafast")).session(batch)
            if result.index == 1
        ]
    # Four of the frame, and four of its mirror image.
    assert "clip walk, frames 00000 … 00002: 8 pixels of the teacher are not finite and count as unknown" in caplog.text
    if method == "semantic":
        for row in (middle.labels[0], middle.labels[0].flip(0)):
            assert row[:4].tolist() == 4 * [IGNORE_INDEX]
            assert row[4] != IGNORE_INDEX
        assert middle.confidence[0, :4].tolist() == 4 * [0.0]
    assert torch.isfinite(middle.confidence).all()
    assert (middle.labels.flatten()[4:] != IGNORE_INDEX).any()


@pytest.mark.parametrize("part", ["teacher", "refiner", "flow"])
def test_a_part_that_breaks_stops_the_run(part: str, tmp_path: Path) -> None:
    class Refiner(nn.Module):
        num_classes = 3

        def forward(self, inputs: RefinerInput) -> Tensor:
            return torch.full_like(inputs.prior, torch.nan)

    class Flow(DIS):
        def estimate(self, *args: object) -> Tensor:  # type: ignore[override]
            return super().estimate(*args) * torch.nan  # type: ignore[arg-type]

    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    teacher, refiner = Broken(40 if part == "teacher" else 0), Refiner()
    flow = Flow() if part == "flow" else DIS()
    methods = ["refine"] if part == "refiner" else ["inpaint"]
    module = PropagationModule(3, methods, teacher, refiner if part == "refiner" else None, flow)
    with pytest.raises(WrpError, match=rf"% of the {part}'s values are not finite, more than 1 %"):
        list(module.session(first_interval(root)))
