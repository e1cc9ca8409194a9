"""How a teacher is trained, by the weights that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clips import make_folder
from wrp.io.checkpoints import load_module
from wrp.options import InferenceArgs, NetworkArgs
from wrp.runs import training
from wrp.runs.autolabel import autolabel
from wrp.runs.config import RECIPES, Settings, TeacherArgs
from wrp.runs.training import find_weights, foreseen
from wrp.segmentation.module import SegmentationModule

SMALL = {"steps": 2, "crop": (32, 48), "batch": 2}


@pytest.mark.parametrize("pretrained", [True, False])
def test_what_is_given_is_kept_and_what_is_not_follows_the_recipe(pretrained: bool) -> None:
    assert TeacherArgs().recipe(pretrained) == RECIPES[pretrained]
    network = NetworkArgs("Unet", "resnet18", scale=0.3)
    given = TeacherArgs(network=network, lr=0.0, steps=3, crop=(32, 64)).recipe(pretrained)
    assert (given.network, given.lr, given.steps, given.crop) == (network, 0.0, 3, (32, 64))
    only_scale = TeacherArgs(network=NetworkArgs(encoder_name="auto", scale=1.0)).recipe(pretrained)
    assert only_scale.network == NetworkArgs(encoder_name=RECIPES[pretrained].network.encoder_name, scale=1.0)


@pytest.mark.parametrize(
    ("weights", "installed", "pretrained"),
    [("none", True, False), ("auto", True, True), ("auto", False, False), ("weights.pth", False, True)],
)
def test_a_plan_foresees_the_recipe_without_asking_a_hub(
    monkeypatch: pytest.MonkeyPatch, weights: str, installed: bool, pretrained: bool
) -> None:
    asked: list[str] = []

    def package(encoder: str) -> str | None:
        asked.append(encoder)
        return "some-package" if installed else None

    monkeypatch.setattr(training, "installed_package", package)
    monkeypatch.setattr(training, "create_segmenter", lambda *_: pytest.fail("a network was made"))
    assert foreseen(TeacherArgs(weights=weights)) == RECIPES[pretrained]
    assert asked == (["tu-tf_efficientnet_lite0"] if weights == "auto" else [])


def test_auto_takes_the_package_of_the_pretrained_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "installed_package", lambda encoder: encoder.endswith("lite0") or None)
    assert find_weights(Settings("clips", "out")) == ("imagenet", None)


@pytest.mark.parametrize("weights", ["none", "file"])
def test_a_run_records_the_recipe_and_its_teacher_sees_two_sizes(tmp_path: Path, weights: str) -> None:
    import timm
    import torch

    given: dict[str, Any] = {"weights": "none"}
    if weights == "file":
        net = timm.create_model("tf_efficientnet_lite0")
        torch.save(net.state_dict(), tmp_path / "net.pth")
        given = {"weights": str(tmp_path / "net.pth")}
    root, out = make_folder(tmp_path / "street", {"walk": 3}), tmp_path / "out"
    autolabel(Settings(str(root), str(out), methods="semantic", train_teacher=TeacherArgs(**given, **SMALL)))
    recipe = RECIPES[weights == "file"]
    used = json.loads((out / "metrics.json").read_text())["settings"]["train_teacher"]
    assert (used["network"]["encoder_name"], used["lr"]) == (recipe.network.encoder_name, recipe.lr)
    assert (used["network"]["scale"], used["steps"], used["crop"]) == (recipe.network.scale, 2, [32, 48])
    teacher = load_module(SegmentationModule, out / "teacher.ckpt")
    assert teacher.network.encoder_name == recipe.network.encoder_name
    assert teacher.optimizer.lr == recipe.lr
    assert teacher.inference == InferenceArgs(scales=[1.0, 1.5])
    # What is asked for wins over what the checkpoint says.
    once = load_module(SegmentationModule, out / "teacher.ckpt", inference=InferenceArgs(flip=True))
    assert once.inference == InferenceArgs(flip=True)
