"""Networks of the user's own in checkpoints come back where their package may be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tests.clips import make_folder
from tests.modules.small import FIT, PREDICT, checkpoints, writer
from wrp import PropagationModule, RefinementModule, SegmentationModule
from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.io.checkpoints import described, load_module, read_checkpoint, save_weights
from wrp.segmentation.module import load_segmenter

OWN = """
import torch
from torch import nn
from wrp import SegmentationModule

class Net(nn.Module):
    def __init__(self, width: int = 4, act: nn.Module = nn.ReLU()):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), act, nn.Conv2d(width, 3, 1))
    def forward(self, images):
        return self.layers(images)

class Plain(Net):
    def __init__(self):
        super().__init__(5)

class Sub(SegmentationModule):
    def __init__(self, num_classes: int, width: int = 4):
        self.width = width
        super().__init__(num_classes)
    def configure_network(self):
        return Net(self.width)

class Refiner(nn.Module):
    def __init__(self, gain: float):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
    def forward(self, inputs):
        return self.gain * inputs.prior
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A package of the user's."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "own_networks.py").write_text(OWN)
    sys.path.insert(0, str(folder))
    yield import_module("own_networks")
    sys.path.remove(str(folder))


@pytest.fixture
def own(package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, and a folder with a small data set."""
    make_folder(tmp_path / "clips", {"walk": 9})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return package


def saved(module: pl.LightningModule, path: str) -> str:
    trainer = pl.Trainer(max_steps=0, logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


def same(one: Any, other: Any) -> bool:
    images = torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8)
    with torch.no_grad():
        return torch.equal(one.eval().probabilities(images), other.eval().probabilities(images))


DATA = ["--data=SegmentationData", "--data.root=clips", "--data.select.label_every=4"]
TRAIN = [*DATA, "--data.sampling.crop_size=[16,16]", *FIT, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]


def fit(*model: str, out: str = "made") -> str:
    steps = [flag for flag in TRAIN if flag != FIT[0]]
    assert main(["fit", *model, *steps, *checkpoints(out)]) == 0
    return f"{out}/model.ckpt"


NET = ["--model=SegmentationModule", "--model.net=own_networks.Net"]
ARGUMENTS = ["--model.net.width=6", "--model.net.act=torch.nn.GELU"]


@pytest.mark.slow
def test_a_network_of_ones_own_is_a_teacher_everywhere(
    own: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fit(*NET, *ARGUMENTS)
    assert read_checkpoint(Path(path))["hyper_parameters"]["num_classes"] == 3  # which nobody gave
    label = ["autolabel", "clips", "--label-every=4", "--methods=semantic", f"--teacher={path}"]
    predict = ["predict", "--model=SegmentationModule", *DATA, *PREDICT, f"--ckpt_path={path}"]
    teacher = ["predict", "--model=PropagationModule", "--model.methods=[semantic]", f"--model.teacher={path}"]
    teacher += ["--data=PropagationData", "--data.root=clips", "--data.select.label_every=4", *PREDICT]
    commands = [[*label, "--out=labelled"], [*predict, *writer("predicted")], [*teacher, *writer("propagated")]]
    capsys.readouterr()
    for command in commands:
        assert main(command) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith(f"wrp: error: {path} was trained with a network of your own, own_networks.Net, which is")
        assert line.endswith("set the environment variable WRP_SAFE=own_networks")
    # The configuration names the package.
    assert main([*predict, "--model.net=own_networks.Net", *writer("named")]) == 0
    monkeypatch.setenv("WRP_SAFE", "own_networks")
    for command in commands:
        assert main(command) == 0
    loaded = load_segmenter(path, 3)
    assert isinstance(loaded.net.layers[1], nn.GELU)
    assert loaded.net.layers[0].out_channels == 6
    assert same(SegmentationModule(3, pseudo_labeler=path, net=own.Plain()).pseudo_labeler, loaded)
    # What was loaded can be saved and loaded once more, also as weights alone.
    again = saved(loaded, "again.ckpt")
    assert same(load_module(SegmentationModule, again), loaded)
    save_weights(read_checkpoint(Path(path)), Path("weights.safetensors"))
    assert same(load_module(SegmentationModule, "weights.safetensors"), loaded)


def test_a_class_without_arguments_comes_back_from_python(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SegmentationModule(3, net=own.Plain())
    path = saved(module, "plain.ckpt")
    for load in (lambda: load_module(SegmentationModule, path), lambda: SegmentationModule.load_from_checkpoint(path)):
        with pytest.raises(WrpError, match="set the environment variable WRP_SAFE=own_networks"):
            load()
    assert same(load_module(SegmentationModule, path, net=own.Plain()), module)
    monkeypatch.setenv("WRP_SAFE", "1, own_networks")
    assert same(load_module(SegmentationModule, path), module)
    assert same(SegmentationModule.load_from_checkpoint(path), module)
    assert same(PropagationModule(3, ["semantic"], teacher=path).teacher, module)


def test_arguments_that_are_not_known_are_asked_for(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRP_SAFE", "own_networks")
    module = SegmentationModule(3, net=own.Net(7))
    path = saved(module, "unknown.ckpt")
    with pytest.raises(WrpError, match=r"own_networks.Net, and does not hold its arguments: .* configure_network"):
        load_module(SegmentationModule, path)
    assert same(load_module(SegmentationModule, path, net=own.Net(7)), module)
    predict = ["predict", *NET, "--model.net.width=7", *DATA, *PREDICT, f"--ckpt_path={path}"]
    assert main([*predict, *writer("named")]) == 0  # the configuration has them


def test_a_subclass_is_a_teacher(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fit("--model=own_networks.Sub", "--model.width=6")
    monkeypatch.setenv("WRP_SAFE", "own_networks")
    loaded = load_segmenter(path, 3)
    assert (type(loaded).__name__, loaded.width) == ("Sub", 6)


def test_a_refiner_of_ones_own_comes_back(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data=RefinementData", "--data.examples=CycleExamples", "--data.examples.crops=1", "--data.root=clips"]
    data += ["--data.select.label_every=4", *FIT[1:], "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    net = ["--model=RefinementModule", "--model.net=own_networks.Refiner", "--model.net.gain=2.0"]
    assert main(["fit", *net, *data, *checkpoints("made")]) == 0
    with pytest.raises(WrpError, match="set the environment variable WRP_SAFE=own_networks"):
        load_module(RefinementModule, "made/model.ckpt")
    monkeypatch.setenv("WRP_SAFE", "own_networks")
    assert 1.9 < float(load_module(RefinementModule, "made/model.ckpt").net.gain) < 2.1


def test_nothing_is_imported_for_a_checkpoint_that_does_not_say_what_it_needs(own: Any) -> None:
    path = saved(SegmentationModule(3, net=own.Plain()), "plain.ckpt")
    content = torch.load(path, weights_only=True)
    for net in ("text", {"class_path": "own_networks.Plain"}, {"class_path": 3, "init_args": {}}, ["list"]):
        torch.save(content | {"hyper_parameters": content["hyper_parameters"] | {"net": net}}, "odd.ckpt")
        with pytest.raises(WrpError, match=r"odd.ckpt was trained with a network of your own"):
            load_module(SegmentationModule, "odd.ckpt")


class Here(nn.Module):
    """A network without arguments."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_what_another_program_cannot_import_has_no_arguments() -> None:
    class Local(Here):
        """Defined in a function."""

    assert described(Here())["init_args"] == {}
    assert described(Local())["init_args"] is None
    assert described(nn.Conv2d(3, 3, 1))["init_args"] is None


def test_a_teacher_may_be_named_by_its_class(own: Any) -> None:
    teacher = ["--model=PropagationModule", "--model.methods=[semantic]", "--model.teacher=SegmentationModule"]
    teacher += ["--model.teacher.num_classes=3", "--model.teacher.net=own_networks.Plain"]
    data = ["--data=PropagationData", "--data.root=clips", "--data.select.label_every=4", *PREDICT]
    assert main(["predict", *teacher, *data, *writer("out")]) == 0
    assert len(list(Path("out/labels/walk").iterdir())) == 9
    with pytest.raises(WrpError, match=r"got a Plain: wrap a network as SegmentationModule\(num_classes, net=…\)"):
        PropagationModule(3, ["semantic"], teacher=own.Plain())


OTHER_DATA = """
import pytorch_lightning as pl, torch
class Data(pl.LightningDataModule):
    def train_dataloader(self):
        item = {"image": torch.rand(3, 16, 16), "mask": torch.zeros(16, 16, dtype=torch.int64)}
        return torch.utils.data.DataLoader([item, item], batch_size=2)
    def val_dataloader(self):
        return self.train_dataloader()
"""


def test_data_that_do_not_tell_their_classes_need_a_model_that_does(
    own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other_data.py").write_text(OTHER_DATA)
    command = ["fit", "--model=SegmentationModule", "--model.net=own_networks.Plain", "--data=other_data.Data", *FIT]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "wrp: error: the number of classes is not known, as Data has no num_classes: give model.init_args.num_classes"
    )
    assert main([*command, "--model.num_classes=3"]) == 0
    Path("config.yaml").rename("again.yaml")
    assert main(["fit", "--config=again.yaml"]) == 0  # the copy of the configuration has it, too
    assert main(["fit", *NET, *TRAIN, "--model.num_classes=4"]) == 2
    assert "the data have 3 classes, the model has num_classes=4" in capsys.readouterr().err
