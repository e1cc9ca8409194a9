"""What a user has put somewhere is neither deleted nor overwritten, whatever writes there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.clips import make_davis, make_folder, make_images, make_video, picture, save
from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.io.checkpoints import CLASS_KEY, FORMAT, FORMAT_KEY
from wrp.io.outputs import FLOW, RUN, TEMPORARY, check_output, claim, owner_of, remove_temporary
from wrp.io.writing import MARKER, write_json
from wrp.runs.config import TeacherArgs

MOTION = ["--methods=motion", "--label-every=4"]
SEGMENTATION = ["--model=SegmentationModule", "--model.network.encoder_name=tu-regnetx_002"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"walk": 9})


def frames(root: Path) -> list[str]:
    data = ["--data=SegmentationData", f"--data.root={root}", "--data.num_classes=3"]
    return [*data, "--data.sampling.crop_size=[32,32]"]


def predict(root: Path, out: Path) -> int:
    model, data = ["--model=PropagationModule"], ["--data=PropagationData", f"--data.root={root}"]
    more = ["--data.num_classes=3", "--data.select.label_every=4", "--return_predictions=false"]
    writer = ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={out}", "--trainer.accelerator=cpu"]
    return main(["predict", *model, "--model.num_classes=3", *data, *more, *writer, "--trainer.logger=false"])


def autolabel(root: Path, out: Path) -> int:
    return main(["autolabel", str(root), f"--out={out}", *MOTION])


def cached(root: Path, out: Path) -> int:
    return main(["autolabel", str(root), f"--out={root.parent / 'run'}", f"--flow-cache={out}", *MOTION])


def cached_by_a_configuration(root: Path, out: Path) -> int:
    model = ["--model=PropagationModule", "--model.num_classes=3", "--model.flow=wrp.flow.cache.FlowCache"]
    flow = ["--model.flow.estimator=wrp.flow.dis.DIS", f"--model.flow.folder={out}"]
    data = ["--data=PropagationData", f"--data.root={root}", "--data.num_classes=3"]
    return main(["predict", *model, *flow, *data, "--data.select.label_every=4", "--trainer.logger=false"])


def selftrain(root: Path, out: Path) -> int:
    lists = root.parent / "lists"
    lists.mkdir(exist_ok=True)
    for name, view in (("labelled", 0), ("unlabelled", 1), ("val", 2)):
        (lists / name).write_text(f"train/view{view}\n")
    shutil.copytree(make_images(root.parent / "images", {"train": 3}) / "images", root / "images", dirs_exist_ok=True)
    shutil.copytree(root.parent / "images" / "labels", root / "labels", dirs_exist_ok=True)
    command = ["selftrain", "supervised", str(root), f"--out={out}", "--steps=3", "--crop-size", "32", "32"]
    return main([*command, *(f"--{name}={lists / name}" for name in ("labelled", "unlabelled", "val"))])


def search(root: Path, out: Path) -> int:
    sweep = root.parent / "sweep.yaml"
    sweep.write_text("command: [wrp, '${args}']\nparameters: {x: {value: 1}}\nmetric: {name: m, goal: maximize}\n")
    return main(["search", str(sweep), "--trials=0", f"--out={out}"])


def synthetic(root: Path, out: Path) -> int:
    return main(["data", "synthetic", str(out), "--frames=2", "--size=64x48"])


WRITERS = [autolabel, predict, cached, cached_by_a_configuration, selftrain, search, synthetic]
READERS = [autolabel, predict, cached, cached_by_a_configuration, selftrain]
Write = Callable[[Path, Path], int]


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_of_somebody_elses_stays_as_it_is(
    write: Write, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    for name in ("flow/notes.txt", "motion/a.txt", "report.md", "labels/walk/00001.png", "manifest.jsonl"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("mine")
    before = contents(project)
    assert write(root, project) == 2
    assert "holds files that this version of wrp has not written there (flow)" in capsys.readouterr().err
    assert contents(project) == before
    (tmp_path / "link").symlink_to(project)
    assert write(root, tmp_path / "link") == 2
    assert contents(project) == before


@pytest.mark.parametrize(
    ("write", "place"),
    [(autolabel, place) for place in ("labels", "labels/walk", "labels/walk/new", "labels/new", "frames/new", "..")]
    + [(write, place) for write in READERS for place in ("labels/walk", ".")],
)
@pytest.mark.parametrize("linked", [False, True])
def test_nothing_is_written_at_in_or_above_what_is_read(
    write: Write, place: str, linked: bool, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if write is selftrain:
        place = place.replace("walk", "train").replace("frames", "images")
        selftrain(root, tmp_path / "nothing" / MARKER)  # makes the images and lists
    out = root / place
    if linked:
        out = tmp_path / "elsewhere" / "link"
        out.parent.mkdir()
        out.symlink_to(root / place)
    before = contents(root)
    capsys.readouterr()
    assert write(root, out) == 2
    assert "which is read from" in capsys.readouterr().err
    assert contents(root) == before
    if place == "." and not linked:
        assert write(root, root / "run") == 0  # beside them


def test_files_that_are_links_guard_what_they_lead_to(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for label in (root / "labels/walk").iterdir():
        label.rename(store / label.name)
        label.symlink_to(store / label.name)
    for out in (store, store / "new"):
        assert autolabel(root, out) == 2
        assert f"{store}, which is read from" in capsys.readouterr().err


def test_a_video_and_images_outside_of_clips_guard_their_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_video(root / "frames/walk.mp4", [picture(i, 48, 64) for i in range(5)])
    for number in (0, 4):
        save(root / f"labels/walk/{number}.png", np.zeros((48, 64), np.uint8), "P")
    assert main(["autolabel", str(root), f"--out={root / 'frames/run'}", "--methods=motion"]) == 2
    assert main(["autolabel", str(root), f"--out={root / 'run'}", "--methods=motion"]) == 0
    davis = make_davis(tmp_path / "davis", {"bear": 3})
    assert main(["autolabel", str(davis), f"--out={davis / 'JPEGImages/run'}", "--methods=motion"]) == 2


def test_a_link_to_an_output_folder_is_followed_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    assert autolabel(root, link / "run") == 0
    assert caplog.messages.count(f"{link / 'run'} is {tmp_path / 'disk/run'}") == 1
    assert f"labels: {tmp_path / 'disk/run/labels'}" in capsys.readouterr().out
    assert autolabel(root, link / "run") == 0
    assert main(["report", str(link / "run")]) == 0
    assert autolabel(root, tmp_path / "disk/run") == 0


def test_a_folder_belongs_to_one_kind(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert autolabel(root, tmp_path / "run") == 0
    before = contents(tmp_path / "run")
    capsys.readouterr()
    for write in (predict, cached_by_a_configuration, search, synthetic):
        assert write(root, tmp_path / "run") == 2
        assert "was made by `wrp` for something else (run)" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before
    one = ["autolabel", str(root), f"--out={tmp_path / 'one'}", f"--flow-cache={tmp_path / 'one'}", *MOTION]
    assert main(one) == 2
    assert "choose another" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("command", [["report"], ["suggest"], ["rectify"]])
def test_a_folder_that_only_looks_like_a_run_is_not_written_to(
    command: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert autolabel(root, run) == 0
    (run / MARKER).unlink()
    before = contents(run)
    assert main([*command, str(run)]) == 2
    assert "expected the output of `wrp autolabel`" in capsys.readouterr().err
    assert autolabel(root, run) == 2
    assert contents(run) == before


@pytest.mark.parametrize("place", ["data/labels/coco", "run/labels/coco", "run/confidence/coco", "data/frames/walk/x"])
def test_nothing_is_exported_among_labels(
    place: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert autolabel(root, tmp_path / "run") == 0
    assert main(["export", str(tmp_path / "run"), "--format=voc", f"--out={tmp_path / place}"]) == 2
    assert "which is read from" in capsys.readouterr().err
    assert not (tmp_path / place).exists()
    assert main(["export", str(tmp_path / "run"), "--format=voc", f"--out={tmp_path / 'run/voc'}"]) == 0


def test_temporary_data_is_deleted_by_its_marker_alone(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["autolabel", str(root), f"--out={run}", *MOTION, "--limit=0"]) == 0
    for name in ("flow", "motion"):  # names that runs of before deleted
        write_json(run / name / "mine.json", {})
    assert autolabel(root, run) == 0
    assert (run / "flow/mine.json").is_file()
    assert (run / "motion/mine.json").is_file()
    assert not (run / TEMPORARY).exists()
    mine = tmp_path / TEMPORARY
    mine.mkdir()
    remove_temporary(mine)
    assert mine.is_dir()
    remove_temporary(claim(mine, TEMPORARY))
    assert not mine.exists()


def test_a_folder_of_somebody_elses_among_temporary_data_stops_a_run(root: Path, tmp_path: Path) -> None:
    run = claim(tmp_path / "run", RUN)
    write_json(run / TEMPORARY / "mine.json", {})
    assert autolabel(root, run) == 2
    assert (run / TEMPORARY / "mine.json").is_file()


def test_the_flow_cache_does_not_lie_among_what_is_deleted(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["autolabel", str(root), f"--out={run}", *MOTION]
    assert main([*command, f"--flow-cache={run / TEMPORARY / 'flow'}"]) == 2
    assert main([*command, f"--flow-cache={run / 'cache'}"]) == 0
    assert list((run / "cache").glob("*.flow"))


def test_what_systems_leave_in_an_empty_folder_counts_for_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "run" / name).write_bytes(b"")
    assert autolabel(root, tmp_path / "run") == 0


def test_a_damaged_marker_is_nobodys(tmp_path: Path) -> None:
    folder = claim(tmp_path / "a", FLOW)
    assert owner_of(folder) == FLOW
    for content in (b"", b"[]", b"{", b'{"wrp": 3}', b"\xff"):
        (folder / MARKER).write_bytes(content)
        assert owner_of(folder) is None
        with pytest.raises(WrpError, match="has not written there"):
            check_output(folder, FLOW)


def test_the_demo_keeps_scene_and_run_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wrp.runs import autolabel as pipeline

    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(pipeline, "DEMO", {"methods": ["motion"], "train_teacher": TeacherArgs(weights="none")})
    small = partial(pipeline.generate_folder, num_frames=13, height=48, width=64)
    monkeypatch.setattr(pipeline, "generate_folder", small)
    assert main(["demo", f"--out={tmp_path}"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["motion", "notes.txt", "run", "scene"]
    assert owner_of(tmp_path / "scene") == "scene"
    assert main(["demo", f"--out={tmp_path}"]) == 0
    assert main(["demo", f"--out={tmp_path}", "--seed=1"]) == 2
    shutil.rmtree(tmp_path / "scene")
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "mine.txt").write_text("mine")
    assert main(["demo", f"--out={tmp_path}"]) == 2
    assert contents(tmp_path / "scene") == {"mine.txt": b"mine"}


def checkpoint(path: Path) -> Path:
    made_by = "wrp.segmentation.module.SegmentationModule"
    content = {"state_dict": {"a": torch.ones(1)}, "hyper_parameters": {}, CLASS_KEY: made_by, FORMAT_KEY: FORMAT}
    torch.save(content, path)
    return path


def test_weights_replace_nothing_but_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, mine = checkpoint(tmp_path / "a.ckpt"), tmp_path / "mine.safetensors"
    mine.write_text("mine")
    assert main(["weights", str(source), f"--out={mine}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    ours = tmp_path / "a.safetensors"
    assert main(["weights", str(source)]) == 0
    assert main(["weights", str(source)]) == 0
    before = ours.read_bytes()
    assert main(["weights", str(ours)]) == 2
    assert "which is read from" in capsys.readouterr().err
    assert ours.read_bytes() == before


def test_a_picture_of_scores_replaces_nothing_but_one(root: Path, tmp_path: Path) -> None:
    def test(path: Path) -> int:
        model = [*SEGMENTATION, "--trainer.logger=false"]
        data = ["--data=SegmentationData", f"--data.root={root}", "--data.num_classes=3", "--data.select.label_every=8"]
        picture = ["--trainer.callbacks=ConfusionPicture", f"--trainer.callbacks.path={path}"]
        return main(["test", *model, *data, *picture, "--trainer.accelerator=cpu"])

    before = contents(root)
    for path in (root / "labels/walk/00001.png", root / "labels/walk/new.png", root / "labels"):
        assert test(path) == 2
    mine = save(tmp_path / "mine.png", picture(0))
    assert test(mine) == 2
    assert np.array_equal(np.array(Image.open(mine)), picture(0))
    assert contents(root) == before
    assert test(tmp_path / "scores.png") == 0
    assert test(tmp_path / "scores.png") == 0


def test_a_copy_of_the_configuration_replaces_nothing_but_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    mine = "model: SegmentationModule\n"
    Path("config.yaml").write_text(mine)
    steps = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
    command = ["fit", "--config=config.yaml", SEGMENTATION[1], *frames(root), *steps, "--trainer.logger=false"]
    assert main(command) == 2
    assert Path("config.yaml").read_text() == mine
    Path("config.yaml").rename("mine.yaml")
    command[1] = "--config=mine.yaml"
    assert main(command) == 0
    assert main(command) == 0
    written = Path("config.yaml").read_text()
    command[1] = "--config=config.yaml"  # ours, but now it is read
    capsys.readouterr()
    assert main([*command, "--trainer.max_steps=2"]) == 2
    assert "which is read from" in capsys.readouterr().err
    assert Path("config.yaml").read_text() == written


def test_stored_flow_guards_its_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flow").mkdir()
    model = ["--model=PropagationModule", "--model.num_classes=3", "--model.flow=wrp.flow.stored.Stored"]
    data = ["--data=PropagationData", f"--data.root={root}", "--data.num_classes=3"]
    writer = ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={tmp_path / 'flow/new'}"]
    command = ["predict", *model, f"--model.flow.root={tmp_path / 'flow'}", *data, *writer, "--trainer.logger=false"]
    assert main([*command, "--trainer.accelerator=cpu"]) == 2
    assert f"is in {tmp_path / 'flow'}, which is read from" in capsys.readouterr().err


def test_images_behind_links_guard_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    store.mkdir()
    root = make_images(tmp_path / "images", {"train": 2, "val": 2})
    for kind in ("images", "labels"):
        (root / kind / "val").rename(store / kind)
        (root / kind / "val").symlink_to(store / kind)
    model = [*SEGMENTATION, "--data=ImageData"]
    writer = ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={store / 'labels/new'}"]
    more = [f"--data.root={root}", "--data.num_classes=3", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    assert main(["predict", *model, *more, *writer]) == 2
    assert "which is read from" in capsys.readouterr().err


def test_checkpoints_and_configurations_do_not_go_among_labels(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(root)
    steps = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
    command = ["fit", *SEGMENTATION, *frames(root), *steps]
    assert main([*command, "--trainer.logger=false", f"--trainer.default_root_dir={root / 'labels'}"]) == 2
    assert "which is read from" in capsys.readouterr().err
    saved = ["--trainer.callbacks=ModelCheckpoint", f"--trainer.callbacks.dirpath={root / 'labels/walk'}"]
    logged = ["--trainer.logger=false", f"--trainer.default_root_dir={tmp_path / 'fit'}"]
    assert main([*command, *saved, *logged]) == 2
    assert "the folder of checkpoints" in capsys.readouterr().err
    named = [
        "--trainer.logger=CSVLogger",
        f"--trainer.logger.save_dir={root.parent}",
        f"--trainer.logger.name={root.name}",
    ]
    assert main([*command, *named]) == 2
    assert (
        f"written to {root}, where data are read from, as the project of the logger is called"
        in capsys.readouterr().err
    )
    assert contents(root) == before


def test_what_lies_among_temporary_data_is_not_lost(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["autolabel", str(root), f"--out={run}", *MOTION]
    assert main([*command, "--limit=1"]) == 0
    for out in (run / TEMPORARY / "mine", run / TEMPORARY / "flow" / "mine"):
        assert synthetic(root, out) == 2
        assert main(["export", str(run), "--format=voc", f"--out={out}"]) == 2
        assert autolabel(root, out) == 2


def test_weights_of_another_program_are_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(4.0)}, mine, {"format": "pt"})
    before = mine.read_bytes()
    assert main(["weights", str(checkpoint(tmp_path / "a.ckpt")), f"--out={mine}"]) == 2
    assert mine.read_bytes() == before
    assert main(["weights", str(mine), f"--out={tmp_path / 'x.safetensors'}"]) == 2
    assert "is not a checkpoint of one of the package's modules" in capsys.readouterr().err


def test_jobs_that_begin_at_once_share_a_new_folder(tmp_path: Path) -> None:
    def begin(number: int) -> Path:
        return claim(tmp_path / str(number // 4), RUN)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(begin, range(400)))) == 400


def test_an_empty_folder_with_a_systems_file_is_filled(root: Path, tmp_path: Path) -> None:
    assert autolabel(root, tmp_path / "run") == 0
    for name in ("scene", "voc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".DS_Store").touch()
    assert synthetic(root, tmp_path / "scene") == 0
    assert main(["export", str(tmp_path / "run"), "--format=voc", f"--out={tmp_path / 'voc'}"]) == 0
