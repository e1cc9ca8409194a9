"""`wrp predict-images`, `wrp export-model`, and `wrp autolabel` of a clip without any label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import wrp
from tests.clips import CLASSES_YAML, LABEL_MAP, make_video, picture, save
from tests.segmentation.small import QUIET
from wrp.cli.main import main
from wrp.io.images import read_label
from wrp.io.label_map import read_label_map
from wrp.options import InferenceArgs, NetworkArgs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = wrp.SegmentationModule(3, NetworkArgs("FPN", "tu-regnetx_002", scale=0.5))
    module.label_map = LABEL_MAP.written
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.connect(module)
    path = tmp_path_factory.mktemp("networks") / "student.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_a_folder_of_images_and_videos_is_labelled_and_resumed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    photos = tmp_path / "photos"
    save(photos / "a.png", picture(0))
    save(photos / "park" / "b.jpg", picture(1, 30, 50))
    make_video(photos / "drive.mp4", [picture(2), picture(3)])
    (photos / "notes.txt").write_text("no image")
    command = ["predict-images", str(checkpoint), "photos", "--out", "out"]
    assert main(command) == 0
    names = ["a", "drive/000000", "drive/000001", "park/b"]
    for kind in ("labels", "confidence"):
        found = sorted(path.relative_to(tmp_path / "out" / kind) for path in (tmp_path / "out" / kind).rglob("*.png"))
        assert [path.with_suffix("").as_posix() for path in found] == names
    labels, confidence = wrp.load(checkpoint).predict(photos / "a.png")
    label_map = read_label_map(tmp_path / "out" / "classes.yaml")
    assert label_map == LABEL_MAP.written
    assert torch.equal(read_label(tmp_path / "out" / "labels" / "a.png", label_map), labels)
    with Image.open(tmp_path / "out" / "labels" / "a.png") as image:
        assert (image.mode, image.getpalette()[21:24]) == ("P", [70, 80, 90])  # the id 7 is a car
    with Image.open(tmp_path / "out" / "confidence" / "a.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.array(image), (confidence * 255).round().byte().numpy())

    assert main([*command[:2], "photos/a.png", "--out", "one"]) == 0
    [alone] = (tmp_path / "one" / "labels").rglob("*.png")
    assert alone.name == "a.png"
    assert alone.read_bytes() == (tmp_path / "out" / "labels" / "a.png").read_bytes()

    kept = (tmp_path / "out" / "labels" / "park" / "b.png").stat().st_mtime_ns
    (tmp_path / "out" / "labels" / "a.png").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert (tmp_path / "out" / "labels" / "a.png").is_file()
    assert (tmp_path / "out" / "labels" / "park" / "b.png").stat().st_mtime_ns == kept
    assert main([*command[:-1], "photos/out"]) == 2
    (tmp_path / "other.yaml").write_text(CLASSES_YAML.replace("car", "bus"))
    capsys.readouterr()
    assert main([*command, "--classes", "other.yaml"]) == 2
    assert "out holds labels by other classes; choose another --out" in capsys.readouterr().err


def test_a_label_is_that_of_the_image_of_its_name(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in ("monday", "tuesday"):
        save(tmp_path / day / "0.png", picture(0, 32, 48 if day == "monday" else 64))
        save(tmp_path / day / f"{day}.png", picture(1))
    command = ["predict-images", str(checkpoint), "monday", "--out", "out"]
    labels = tmp_path / "out" / "labels"
    assert main(command) == 0
    other = labels / "monday.png"
    kept = other.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command[:2], "tuesday", "--out", "out"]) == 2
    assert "tuesday/0.png is another image of that name; choose another --out" in capsys.readouterr().err
    assert not (labels / "tuesday.png").exists()
    (tmp_path / "monday").rename(tmp_path / "moved")
    save(tmp_path / "moved" / "1.png", picture(2))
    assert main([*command[:2], "moved", "--out", "out"]) == 0, "the same images at another place, and one more"
    assert sorted(path.name for path in labels.iterdir()) == ["0.png", "1.png", "monday.png"]
    save(tmp_path / "moved" / "0.png", picture(0, 32, 80))
    assert main([*command[:2], "moved", "--out", "out"]) == 0
    assert read_label(labels / "0.png", LABEL_MAP.written).shape == (32, 80), "the image has changed"
    assert other.stat().st_mtime_ns == kept


def test_an_image_that_cannot_be_read_stops_or_is_skipped(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        save(tmp_path / "photos" / f"{number}.png", picture(number))
    (tmp_path / "photos" / "1.png").write_bytes((tmp_path / "photos" / "1.png").read_bytes()[:300])
    command = ["predict-images", str(checkpoint), "photos", "--out", "out"]
    assert main(command) == 2
    assert "wrp: error: photos/1.png cannot be read" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 3
    assert capsys.readouterr().out.startswith("skipped 1: photos/1.png cannot be read")
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == ["0.png", "2.png"]


def test_names_that_would_meet_and_empty_folders_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    assert main(["predict-images", str(checkpoint), "photos", "--out", "out"]) == 2
    assert "photos holds no image and no video" in capsys.readouterr().err
    pytest.importorskip("av")
    make_video(tmp_path / "photos" / "drive.mp4", [picture(0)])
    save(tmp_path / "photos" / "drive" / "000000.png", picture(0))
    assert main(["predict-images", str(checkpoint), "photos", "--out", "out"]) == 2
    assert "two images whose labels would be labels/drive/000000.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_are_exported_under_the_new_and_the_old_name(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for command in (["export-model", "--format", "safetensors"], ["weights"]):
        assert main([*command, str(checkpoint), "--out", "weights.safetensors"]) == 0
        assert capsys.readouterr().out == "weights.safetensors\n"
        assert wrp.load("weights.safetensors").names == LABEL_MAP.names
    [line] = [record.getMessage() for record in caplog.records if "wrp weights" in record.getMessage()]
    assert line.startswith("wrp weights is now called wrp export-model --format safetensors")
    assert main(["export-model", str(checkpoint), "--format", "onnx", "--out", "weights.safetensors"]) == 2
    assert "must end in .onnx" in capsys.readouterr().err
    pytest.importorskip("onnxruntime")
    for _ in range(2):  # the second time over its own file
        assert main(["export-model", str(checkpoint), "--format", "onnx", "--out", "student.onnx"]) == 0
    (tmp_path / "other.onnx").write_bytes(b"of another program")
    assert main(["export-model", str(checkpoint), "--format", "onnx", "--out", "other.onnx"]) == 2
    assert "was not written by this command" in capsys.readouterr().err


def test_a_clip_without_labels_is_labelled_by_a_given_teacher(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        save(tmp_path / "mine" / "frames" / "street" / f"{number}.png", picture(number))
    command = ["autolabel", "mine", "--out", "out", "--methods", "semantic"]
    assert main([*command, "--teacher", str(checkpoint)]) == 0
    label_map = read_label_map(tmp_path / "out" / "classes.yaml")
    labeler = wrp.load(checkpoint)
    labeler.module.inference = InferenceArgs(flip=True)  # as always for a teacher
    for number in range(3):
        found = read_label(tmp_path / "out" / "labels" / "street" / f"{number}.png", label_map)
        assert torch.equal(found, labeler.predict(picture(number))[0])
    entries = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    described = [(entry["method"], entry["keyframes"], entry["distance"]) for entry in entries]
    assert described == [("semantic", [], None)] * 3
    assert "Scores" not in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "confidence" / "street" / "0.png").is_file()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert main(["report", "out"]) == 0
    assert main(["export", "out", "--format", "cityscapes", "--out", "exported"]) == 0
    capsys.readouterr()
    assert main(["suggest", "out"]) == 2
    assert "mine has no labelled frame" in capsys.readouterr().err

    (tmp_path / "mine" / "classes.yaml").write_text(CLASSES_YAML.replace("car", "bus"))
    assert main([*command[:-1], "motion", "--teacher", str(checkpoint)]) == 2
    assert "label at least one of its 3 frames" in capsys.readouterr().err
    assert main([*command[:3], "other", *command[4:]]) == 2
    assert "no frame of mine has a label to learn from" in capsys.readouterr().err
    assert main([*command[:3], "other", *command[4:], "--teacher", str(checkpoint), "--dry-run"]) == 0
    assert "The teacher has learned the classes road, sky, car, those of mine are road, sky, bus" in caplog.text
