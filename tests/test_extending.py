"""The files that the page on extending shows do what the page says; tests/test_typing.py checks their types."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from tests.clips import make_folder
from tests.modules.small import FIT, checkpoints
from tests.pages import named_files
from wrp import PropagationModule, SegmentationData, SegmentationModule
from wrp.cli.main import main
from wrp.data.layouts.registry import open_index
from wrp.io import plugins
from wrp.io.checkpoints import load_module
from wrp.options import SamplingArgs, SelectArgs

FILES = named_files("extending")
QUIET: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files, where they can be imported from."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def root(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "clips", {"walk": 9})


def frames(root: Path) -> SegmentationData:
    return SegmentationData(root=str(root), select=SelectArgs(label_every=4), sampling=SamplingArgs((32, 32), 2))


def test_there_is_a_short_file_for_each_thing() -> None:
    assert {"my_network", "my_module", "my_data", "my_metric", "my_schedule", "my_flow", "my_layout"} == FILES.keys()
    for name, text in FILES.items():
        assert len([line for line in text.splitlines() if line.strip()]) <= 40, name


def test_a_network_of_ones_own_labels_a_clip(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data=SegmentationData", f"--data.root={root}", "--data.select.label_every=4", *FIT]
    data += ["--data.sampling.crop_size=[32,32]", "--trainer.limit_val_batches=0"]
    net = ["--model=SegmentationModule", "--model.net=my_network.Net", "--model.net.classes=3"]
    assert main(["fit", *net, *data, *checkpoints("net")]) == 0
    assert main(["fit", "--model=my_module.MySegmentation", "--model.width=8", *data, *checkpoints("sub")]) == 0
    monkeypatch.setenv("WRP_SAFE", "my_network, my_module")
    for name in ("net", "sub"):
        command = ["autolabel", str(root), f"--out=by-{name}", "--label-every=4", "--methods=semantic"]
        assert main([*command, f"--teacher={name}/model.ckpt"]) == 0
        assert len(list(Path(f"by-{name}/labels/walk").iterdir())) == 9
    assert load_module(SegmentationModule, "sub/model.ckpt").width == 8


def test_a_data_module_of_ones_own_is_trained_on_and_predicted(root: Path) -> None:
    for split in ("train", "val"):
        Path("photos", split).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(f"photos/{split}/{number}.jpg")
            Image.fromarray(np.full((32, 48), number, np.uint8)).save(f"photos/{split}/{number}.png")
    model = ["--model=SegmentationModule", "--model.net=my_network.Net", "--model.net.classes=2"]
    assert main(["fit", *model, "--data=my_data.MyData", "--data.root=photos", *FIT]) == 0


def test_a_metric_of_ones_own_is_logged(root: Path) -> None:
    module = importlib.import_module("my_metric").WithF1(3)
    [scores] = pl.Trainer(**QUIET).validate(module, frames(root), verbose=False)
    assert 0 <= scores["val/f1"] <= 100
    assert "val/miou" in scores


def test_a_schedule_of_ones_own_is_stepped(root: Path) -> None:
    module = importlib.import_module("my_schedule").OneCycle(3)
    trainer = pl.Trainer(**QUIET, max_steps=3, limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(module, frames(root))
    [config] = trainer.lr_scheduler_configs
    assert type(config.scheduler).__name__ == "OneCycleLR"
    assert config.scheduler.last_epoch == 3


def test_flow_of_ones_own_is_used_by_its_path(root: Path) -> None:
    torch.save(nn.Conv2d(6, 2, 3, padding=1).state_dict(), "my_flow.pt")
    command = ["autolabel", str(root), "--out=out", "--label-every=4", "--methods=motion", "--flow=my_flow.MyFlow"]
    command.append("--flow_args.weights=my_flow.pt")
    assert main(command) == 0
    flow = importlib.import_module("my_flow").MyFlow("my_flow.pt")
    assert flow.signature != importlib.import_module("my_flow").MyFlow("my_flow.pt", scale=0.5).signature
    assert PropagationModule(3, flow=flow).flow.signature == flow.signature


def test_a_layout_of_ones_own_is_found_by_its_entry_point(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("video-and-masks", "my_layout", "wrp.layouts")
    monkeypatch.setattr(plugins, "_registered", lambda group: (point,) if group == "wrp.layouts" else ())
    make_folder(Path("raw"), {"walk": 3})
    Path("raw/frames").rename("raw/video")
    Path("raw/labels").rename("raw/masks")
    index = open_index("raw", "video-and-masks")
    assert (index.layout, index.label_map.names) == ("video-and-masks", ("ground", "car"))
    assert [len(clip.frames) for clip in index.clips] == [3]
    assert len(index.clips[0].keyframes) == 3
