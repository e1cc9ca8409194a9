"""A trained network as what labels images: `wrp.load`, its inputs, its classes, tiles, and its export."""

from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import wrp
from tests.clips import LABEL_MAP, make_video, picture, save
from tests.pages import ROOT, blocks
from tests.segmentation.small import QUIET, Linear, frames
from wrp.errors import WrpError
from wrp.io.checkpoints import classes_in, read_checkpoint, save_weights
from wrp.io.outputs import RUN, claim
from wrp.options import InferenceArgs, NetworkArgs
from wrp.segmentation.inference import labels_by_tiles
from wrp.selftraining.unimatch_v2 import UniMatchV2Module
from wrp.structures import LabelMap


class Frames(pl.LightningDataModule):
    """Data whose classes are known."""

    label_map: LabelMap | None = LABEL_MAP.written

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([frames()], batch_size=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that holds the classes, of a network that works at another resolution."""
    torch.manual_seed(0)
    network = NetworkArgs("FPN", "tu-regnetx_002", scale=0.75)
    module = wrp.SegmentationModule(3, network, inference=InferenceArgs(flip=True))
    trainer = pl.Trainer(max_steps=1, **QUIET)
    trainer.fit(module, Frames())
    path = tmp_path_factory.mktemp("networks") / "student.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_the_classes_travel_with_a_checkpoint_and_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    save_weights(read_checkpoint(checkpoint), tmp_path / "student.safetensors")
    for path in (checkpoint, tmp_path / "student.safetensors"):
        labeler = wrp.load(path)
        assert labeler.label_map == LABEL_MAP.written
        assert labeler.module.inference == InferenceArgs(flip=True)
    # what is saved again without data still has them
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.connect(wrp.load(checkpoint).module)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    assert classes_in(read_checkpoint(tmp_path / "again.ckpt")) == LABEL_MAP.written


def test_a_checkpoint_without_classes_gets_numbers_or_those_that_are_named(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["wrp_classes"]
    torch.save(content, tmp_path / "old.ckpt")
    assert wrp.load(tmp_path / "old.ckpt").names == ("class 0", "class 1", "class 2")
    assert "does not hold the names and colours of its 3 classes" in caplog.text
    assert wrp.load(tmp_path / "old.ckpt", classes=LABEL_MAP).colors == LABEL_MAP.colors
    with pytest.raises(WrpError, match="the network knows 3 classes, 1 were named"):
        wrp.load(tmp_path / "old.ckpt", classes=LabelMap((0,), ("road",), ((0, 0, 0),)))
    content["wrp_classes"] = {"ids": [0]}
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(WrpError, match=r"damaged\.ckpt.* is damaged: its classes cannot be read"):
        wrp.load(tmp_path / "damaged.ckpt")


def test_every_kind_of_image_gives_the_same_labels(checkpoint: Path, tmp_path: Path) -> None:
    labeler, array = wrp.load(checkpoint), picture(0)
    path = save(tmp_path / "0.png", array)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    labels, confidence = labeler.predict(array)
    expected = labeler.module.probabilities(tensor[None]).max(1)
    assert torch.equal(labels, expected.indices[0].byte())
    torch.testing.assert_close(confidence, expected.values[0].clamp(max=1))
    for same in (path, str(path), Image.fromarray(array), tensor, tensor / 255, array.astype(np.float32) / 255):
        found = labeler.predict(same)
        assert torch.equal(found[0], labels)
        torch.testing.assert_close(found[1], confidence)
    for batch in (np.stack([array, array]), torch.stack([tensor, tensor]), [path, array]):
        found = labeler.predict(batch)
        assert found[0].shape == found[1].shape == (2, *array.shape[:2])
        assert torch.equal(found[0][1], labels)


def test_a_stream_keeps_the_order_of_images_of_several_sizes(checkpoint: Path) -> None:
    labeler = wrp.load(checkpoint, batch_size=2)
    images = [picture(0), picture(1), picture(2), picture(3, 30, 20), picture(4)]
    found = list(labeler.stream(images))
    for image, (labels, _) in zip(images, found, strict=True):
        assert torch.equal(labels, labeler.predict(image)[0])


def test_all_frames_of_a_video_are_labelled(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    pictures = [picture(number) for number in range(3)]
    path = make_video(tmp_path / "street.mp4", pictures)
    labeler = wrp.load(checkpoint)
    assert torch.equal(labeler.predict(path)[0], labeler.predict(pictures)[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"got an ndarray of shape \(4, 5\)"),
        (np.zeros((3, 4, 5), np.uint8), r"an array of images is \(H, W, 3\)"),
        (torch.zeros(4, 5, 3), r"a tensor of images is \(3, H, W\)"),
        (torch.full((3, 4, 5), 200.0), r"\[0, 1\]"),
        ([picture(0), picture(0, 8, 8)], "must have one size"),
        ([], "there is no image"),
        ("missing.png", "missing.png"),
        (".", "wrp predict-images"),
        ([None], "got a NoneType"),
    ],
)
def test_what_is_no_image_is_refused(checkpoint: Path, image: object, message: str) -> None:
    with pytest.raises(WrpError, match=message):
        wrp.load(checkpoint).predict(image)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_one_line(checkpoint: Path) -> None:
    with pytest.raises(WrpError, match="the device cuda:97 cannot be used"):
        wrp.load(checkpoint, device="cuda:97")


def test_tiles_join_without_a_seam_and_are_bounded() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 70, 45, generator=generator)
    blur = nn.AvgPool2d(5, 1, 2)  # each pixel depends on those two pixels away
    seen = []

    def probabilities_of(part: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape[-2:])
        return blur(part).softmax(1)

    whole = labels_by_tiles(probabilities_of, images, 100)
    assert seen == [(70, 45)]
    tiled = labels_by_tiles(probabilities_of, images, 24)
    assert len(seen) > 8
    assert max(max(size) for size in seen[1:]) == 24
    inner = (..., slice(2, -2), slice(2, -2))
    assert torch.equal(whole[0][inner], tiled[0][inner])
    torch.testing.assert_close(whole[1][inner], tiled[1][inner])


def test_the_folder_of_a_run_means_its_student_or_its_teacher(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WrpError, match="is no folder of a run"):
        wrp.load(tmp_path)
    out = claim(tmp_path / "run", RUN)
    with pytest.raises(WrpError, match="holds no student and no teacher"):
        wrp.load(out)
    for name in ("teacher", "student-st++", "student-st++-unfinished"):
        (out / f"{name}.ckpt").write_bytes(checkpoint.read_bytes())
        assert wrp.load(out).names == LABEL_MAP.names
    (out / "teacher.ckpt").write_bytes(b"")  # not the one that is read now
    assert wrp.load(out).names == LABEL_MAP.names
    (out / "student-cisc-r.ckpt").touch()
    with pytest.raises(WrpError, match=r"several students, student-cisc-r.ckpt, student-st\+\+.ckpt; name one"):
        wrp.load(out)


def test_a_network_of_ones_own_is_given_with_its_checkpoint(tmp_path: Path) -> None:
    trainer = pl.Trainer(max_steps=1, **QUIET)
    module = wrp.SegmentationModule(3, net=Linear())
    trainer.fit(module, Frames())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(WrpError, match=r"network of your own, tests\.\S+Linear.* pass net=… to load it"):
        wrp.load(tmp_path / "own.ckpt")
    labeler = wrp.load(tmp_path / "own.ckpt", net=Linear())
    assert torch.equal(labeler.predict(picture(0))[0], wrp.Labeler(module, LABEL_MAP).predict(picture(0))[0])


def test_onnx_gives_the_probabilities_of_the_network_at_any_size(checkpoint: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from wrp.segmentation.export import export_onnx

    labeler = wrp.load(checkpoint)
    export_onnx(labeler, tmp_path / "student.onnx")
    runner = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    for count, height, width in ((1, 96, 64), (3, 33, 141)):
        images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))
        [found] = runner.run(["probabilities"], {"images": images.numpy()})
        with torch.no_grad():
            expected = labeler.module(images).softmax(1)
        assert (expected - torch.from_numpy(found)).abs().max() < 1e-3
    classes = json.loads(runner.get_modelmeta().custom_metadata_map["wrp_classes"])
    assert (classes["names"], classes["ids"]) == (list(LABEL_MAP.names), list(LABEL_MAP.ids))


def test_onnx_holds_the_network_that_predicts(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from wrp.segmentation.export import export_onnx

    module = UniMatchV2Module(3, NetworkArgs("FPN", "tu-regnetx_002"))
    with torch.no_grad():
        list(module.net.parameters())[-1][0] += 5  # the head's bias: the average is another network now
    export_onnx(wrp.Labeler(module, LABEL_MAP), tmp_path / "student.onnx")
    runner = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    [found] = runner.run(["probabilities"], {"images": images.numpy()})
    with torch.no_grad():
        assert (module.average(images).softmax(1) - torch.from_numpy(found)).abs().max() < 1e-3
        assert (module.net(images).softmax(1) - torch.from_numpy(found)).abs().max() > 0.1


class OneSize(nn.Module):
    """A network that takes the size of its first images for that of all."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * int(images.shape[-1])


def test_a_network_that_fits_one_size_only_is_not_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from wrp.segmentation.export import export_onnx

    labeler = wrp.Labeler(wrp.SegmentationModule(3, net=OneSize()), LABEL_MAP)
    with pytest.raises(WrpError, match="cannot be exported to ONNX"):
        export_onnx(labeler, tmp_path / "own.onnx")
    assert not (tmp_path / "own.onnx").exists()


def test_the_python_on_its_page_runs(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    claim(tmp_path / "labelled-again", RUN)
    shutil.copy(checkpoint, tmp_path / "labelled-again")
    save(tmp_path / "photo.jpg", picture(0, 360, 480))
    make_video(tmp_path / "drive.mp4", [picture(number, 32, 48) for number in range(3)])
    session = "\n".join(blocks(ROOT / "docs" / "predict.md", "pycon"))
    examples = doctest.DocTestParser().get_doctest(session, {}, "predict.md", None, 0)
    said: list[str] = []
    result = doctest.DocTestRunner().run(examples, out=said.append, clear_globs=False)
    assert result.attempted > 5
    assert result.failed == 0, "".join(said)
    assert examples.globs["colors"].shape == (32, 48, 3)  # of the video
