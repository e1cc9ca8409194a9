"""Labels without a class teach nothing, and no label comes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import make_folder, make_images
from wrp import PropagationModule, SegmentationModule, VideoDataModule
from wrp.cli import main

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
    empty(*(root / "labels").rglob("0000[048].png"))  # the anchors; others are hidden, and must not count
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", f"--methods={methods}", *QUICK]) == 2
    assert "none of the 6 labels to learn from has a pixel with a class" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_student_learns_nothing_from_labels_without_a_class(root: Path, tmp_path: Path) -> None:
    empty(*(root / "labels").rglob("0000[048].png"))
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", "--methods=motion", "--student", *QUICK]) == 2
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
    network = SegmentationModule(3, encoder="tu-regnetx_002")
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
    data = VideoDataModule(3, str(root), label_every=4, serve="intervals")
    module = PropagationModule(3, ["inpaint"], SegmentationModule(3, encoder="tu-regnetx_002").eval())
    for batch in data.predict_dataloader() if verb == "predict" else data.test_dataloader():
        assert batch.unlabelled == (batch.clip == "ride")
        for labels, _ in module.at_hidden(batch):
            assert bool((labels["inpaint"][0] == 255).all()) == batch.unlabelled
            assert bool(labels["inpaint"][1].any()) != batch.unlabelled


@pytest.mark.parametrize("serve", ["frames", "windows"])
def test_fit_refuses_labels_without_a_class(serve: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty(*(root / "labels").rglob("0000[048].png"))
    model = ["--model=RefinementModule"] if serve == "windows" else ["--model=SegmentationModule"]
    data = ["--data=VideoDataModule", f"--data.root={root}", "--data.num_classes=3", f"--data.serve={serve}"]
    trainer = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    assert main(["fit", *model, *data, "--data.label_every=4", *trainer]) == 2
    assert "labels to learn from has a pixel with a class" in capsys.readouterr().err


def test_image_data_without_a_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_images(tmp_path / "images", {"train": 3, "val": 1})
    empty(*(root / "labels/train").glob("*.png"))
    trainer = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    model = ["--model=SegmentationModule", "--data=ImageDataModule", f"--data.root={root}", "--data.num_classes=3"]
    assert main(["fit", *model, *trainer]) == 2
    assert "none of the 3 labels to learn from" in capsys.readouterr().err
    for name, view in (("labelled", 0), ("unlabelled", 1), ("val", 2)):
        (tmp_path / name).write_text(f"train/view{view}\n")
    lists = [f"--{name}={tmp_path / name}" for name in ("labelled", "unlabelled", "val")]
    assert main(["selftrain", "st", str(root), f"--out={tmp_path / 'out'}", "--steps=3", *lists]) == 2
    assert "none of the 1 labels to learn from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


WARNING = "validation frames are trained on as well"


@pytest.mark.parametrize(
    ("serve", "more", "warned"),
    [
        ("frames", [], "18 of the 18"),
        ("frames", ["--data.label_every=4"], None),
        ("windows", ["--data.label_every=4"], "6 of the 6"),
        ("windows", ["--data.label_every=4", "--trainer.limit_val_batches=0"], None),
    ],
)
def test_validation_on_training_labels_is_warned_of(
    serve: str, more: list[str], warned: str | None, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ["--model=RefinementModule"] if serve == "windows" else ["--model=SegmentationModule"]
    small = ["--data.crop_size=[32,32]", "--model.crop_size=[16,16]" if serve == "windows" else "--data.batch_size=2"]
    data = ["--data=VideoDataModule", f"--data.root={root}", "--data.num_classes=3", f"--data.serve={serve}", *small]
    trainer = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    assert main(["fit", *model, *data, *trainer, *more]) == 0
    lines = [message for message in caplog.messages if WARNING in message]
    assert len(lines) == (warned is not None)
    assert all(str(warned) in line for line in lines)


@pytest.mark.parametrize(("val", "warned"), [("train", True), ("val", False)])
def test_images_for_validation_that_are_trained_on_are_warned_of(
    val: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_images(tmp_path / "images", {"train": 3, "val": 1})
    trainer = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    model = ["--model=SegmentationModule", "--data=ImageDataModule", f"--data.root={root}", "--data.num_classes=3"]
    assert main(["fit", *model, f"--data.val_split={val}", "--data.crop_size=[32,32]", *trainer]) == 0
    assert (WARNING in caplog.text) == warned
    caplog.clear()
    (tmp_path / "labelled").write_text("train/view0\ntrain/view1\n")
    (tmp_path / "val").write_text("train/view0\n" if warned else "val/view0\n")
    lists = [f"--data.labelled={tmp_path / 'labelled'}", f"--data.val={tmp_path / 'val'}", "--data.crop_size=[32,32]"]
    model[1] = "--data=SemiDataModule"
    assert main(["fit", *model, *lists, *trainer]) == 0
    assert ("1 of the 1 validation frames" in caplog.text) == warned
