"""Labels without a class teach nothing, and no label comes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import make_folder, make_images
from wrp import PropagationData, PropagationModule, SegmentationModule
from wrp.cli.main import main
from wrp.options import NetworkArgs, SelectArgs

SMALL = NetworkArgs(encoder_name="tu-test_resnet")
QUICK = ["--weights=none", "--teacher-steps=2", "--refiner-steps=2", "--label-every=4"]


def empty(*labels: Path) -> None:
    """Give labels no class at any pixel."""
    for label in labels:
        Image.fromarray(np.full_like(np.array(Image.open(label)), 255)).save(label)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"ride": 9, "walk": 9})


def written(out: Path, kind: str, clip: str) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted((out / kind / clip).glob("*.png"))])


@pytest.mark.parametrize("methods", ["motion,semantic", "inpaint", "refine", "semantic"])
def test_nothing_is_learned_from_labels_without_a_class(
    methods: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty(*(root / "labels").rglob("0000[048].png"))  # the keyframes; others are hidden, and must not count
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", f"--methods={methods}", *QUICK]) == 2
    assert "none of the 6 labels to learn from has a pixel with a class" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_student_learns_nothing_from_labels_without_a_class(root: Path, tmp_path: Path) -> None:
    empty(*(root / "labels").rglob("0000[048].png"))
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--methods=motion", "--student", *QUICK]) == 2
    assert not (tmp_path / "out").exists()


def test_a_student_of_no_propagated_label_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--student", *QUICK, "--label-every=1"]) == 2
    assert f"every frame of {root} has a label, and a student learns from propagated ones" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_motion_without_a_label_says_nothing(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty(*(root / "labels").rglob("*.png"))
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--methods=copy,vote,motion", *QUICK]) == 0
    assert "No label of clip ride has a pixel with a class" in caplog.text
    for clip in ("ride", "walk"):
        assert (written(tmp_path / "out", "labels", clip) == 255).all()
        assert not written(tmp_path / "out", "confidence", clip).any()


def test_a_clip_without_a_class_stays_unlabelled_but_by_the_teacher_of_others(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    empty(*(root / "labels" / "ride").glob("0000[048].png"))
    methods = ["copy", "vote-once", "vote", "motion", "inpaint", "refine", "semantic"]
    assert main(["autolabel", str(root), f"--out={out}", f"--methods={','.join(methods)}", *QUICK]) == 0
    for method in methods[:-1]:
        ride = written(out / "methods", method, "ride")
        assert ride.shape[0] == 6
        assert (ride == 255).all(), method
        assert not (written(out / "methods", method, "walk") == 255).all()
    labels = written(out, "labels", "ride")
    assert (labels[[0, 4, 8]] == 255).all()  # as they were given
    assert set(np.unique(labels[[1, 2, 3, 5, 6, 7]])) <= {0, 3, 7}
    scores = json.loads((out / "metrics.json").read_text())["overall"]
    assert scores["refine"]["frames"] == 12


def test_an_interval_without_a_class_in_a_clip_with_some_is_inpainted(root: Path, tmp_path: Path) -> None:
    empty(root / "labels/walk/00000.png", root / "labels/walk/00004.png")
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--methods=motion,inpaint", *QUICK]) == 0
    assert (written(tmp_path / "out/methods", "motion", "walk")[:3] == 255).all()
    assert (written(tmp_path / "out", "labels", "walk")[1:4] != 255).all()


def test_a_teacher_that_was_given_labels_what_has_no_label(root: Path, tmp_path: Path) -> None:
    network = SegmentationModule(3, SMALL)
    content = {"state_dict": network.state_dict(), "hyper_parameters": dict(network.hparams)}
    network.on_save_checkpoint(content)
    torch.save(content | {"pytorch-lightning_version": "2.6.6"}, tmp_path / "teacher.ckpt")
    empty(*(root / "labels").rglob("*.png"))
    given = [f"--teacher={tmp_path / 'teacher.ckpt'}", "--label-every=4"]
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--methods=inpaint,semantic", *given]) == 0
    assert (written(tmp_path / "out", "labels", "walk")[1:4] != 255).all()
    assert (written(tmp_path / "out/methods", "inpaint", "walk") == 255).all()


@pytest.mark.parametrize("verb", ["predict", "test"])
def test_the_module_says_nothing_of_such_a_clip_by_itself(verb: str, root: Path) -> None:
    empty(*(root / "labels" / "ride").glob("0000[048].png"))
    data = PropagationData(3, str(root), select=SelectArgs(label_every=4))
    module = PropagationModule(3, ["inpaint"], SegmentationModule(3, SMALL).eval())
    for batch in data.predict_dataloader() if verb == "predict" else data.test_dataloader():
        assert batch.unlabelled == (batch.clip == "ride")
        for labels, _ in module.at_held_out(batch):
            assert bool((labels["inpaint"][0] == 255).all()) == batch.unlabelled
            assert bool(labels["inpaint"][1].any()) != batch.unlabelled


TASKS = {
    "segmentation": ["--model=SegmentationModule", "--data=SegmentationData"],
    "refinement": ["--model=RefinementModule", "--data=RefinementData", "--data.examples=CycleExamples"],
}
ONE_STEP = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]


@pytest.mark.parametrize("task", TASKS)
def test_fit_refuses_labels_without_a_class(task: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty(*(root / "labels").rglob("0000[048].png"))
    data = [f"--data.root={root}", "--data.num_classes=3", "--data.select.label_every=4"]
    assert main(["fit", *TASKS[task], *data, *ONE_STEP]) == 2
    assert "labels to learn from has a pixel with a class" in capsys.readouterr().err


def test_image_data_without_a_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_images(tmp_path / "images", {"train": 3, "val": 1})
    empty(*(root / "labels/train").glob("*.png"))
    model = ["--model=SegmentationModule", "--data=ImageData", f"--data.root={root}", "--data.num_classes=3"]
    assert main(["fit", *model, *ONE_STEP]) == 2
    assert "none of the 3 labels to learn from" in capsys.readouterr().err
    for name, view in (("labelled", 0), ("unlabelled", 1), ("val", 2)):
        (tmp_path / name).write_text(f"train/view{view}\n")
    lists = [f"--{name}={tmp_path / name}" for name in ("labelled", "unlabelled", "val")]
    assert main(["selftrain", "st", str(root), f"--out={tmp_path / 'out'}", "--steps=3", *lists]) == 2
    assert "none of the 1 labels to learn from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


BOTH = "validation labels are trained on as well"
APART = "give data.init_args.val.split, .clips, .keyframes or .ratio"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ([], "no label of .* is held back to validate on"),
        (["--data.val.overlap=true"], None),
        (["--trainer.limit_val_batches=0"], None),
        (["--data.select.label_every=4"], None),
        (["--data.val.ratio=0.25"], None),
        (["--data.val.clips=[walk]"], None),
        (["--data.val.split=mine"], f"18 of the 18 {BOTH}"),
        (["--data.val.split=mine", "--data.select.clips=[walk]"], f"9 of the 18 {BOTH}"),
        (["--data.val.split=mine", "--data.val.overlap=true"], None),
    ],
)
def test_validation_on_training_labels_is_refused(
    task: str, more: list[str], refused: str | None, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "splits").mkdir()
    (root / "splits/mine.txt").write_text("ride\nwalk\n")
    crop = "--data.sampling.crop_size" if task == "segmentation" else "--data.examples.crop_size"
    data = [f"--data.root={root}", "--data.num_classes=3", f"{crop}=[16,16]"]
    assert main(["fit", *TASKS[task], *data, *ONE_STEP, *more]) == (2 if refused is not None else 0)
    said = capsys.readouterr().err
    assert (APART in said) == (refused is not None)
    assert refused is None or re.search(refused, said)


@pytest.mark.parametrize(("val", "refused"), [("train", True), ("val", False)])
def test_images_for_validation_that_are_trained_on_are_refused(
    val: str, refused: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_images(tmp_path / "images", {"train": 3, "val": 1})
    common = [f"--data.root={root}", "--data.num_classes=3", "--data.sampling.crop_size=[32,32]", *ONE_STEP]
    command = ["fit", "--model=SegmentationModule", "--data=ImageData", *common]
    code = 2 if refused else 0
    assert main([*command, f"--data.val_split={val}"]) == code
    assert (f"3 of the 3 {BOTH}" in capsys.readouterr().err) == refused
    (tmp_path / "labelled").write_text("train/view0\ntrain/view1\n")
    (tmp_path / "val").write_text("train/view0\n" if refused else "val/view0\n")
    lists = [f"--data.labelled={tmp_path / 'labelled'}", f"--data.val={tmp_path / 'val'}"]
    command[2] = "--data=SemiSupervisedData"
    assert main([*command, *lists]) == code
    assert (f"1 of the 1 {BOTH}" in capsys.readouterr().err) == refused
