"""What strangers' files may not do."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import segmentation_models_pytorch as smp
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torchvision.models import _api as torchvision_api

from tests.clips import make_folder
from tests.forked import wrp
from wrp import CycleExamples, PropagationModule, RefinementData, RefinementModule, SegmentationModule
from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.io.checkpoints import CLASS_KEY, FORMAT, FORMAT_KEY, load_module
from wrp.options import NetworkArgs, RefinerArgs
from wrp.runs.trainer import check_trainer
from wrp.segmentation.module import load_segmenter

EVIL = """
from pathlib import Path
import pytorch_lightning as pl
Path("ran").touch()
class Module(pl.LightningModule):
    pass
"""


def run(folder: Path, *arguments: str, **environment: str) -> CompletedProcess[str]:
    return wrp("fit", *arguments, "--data=SegmentationData", "--data.num_classes=10", folder=folder, **environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "environment", "ran"),
    [
        (["--safe"], {}, False),
        (["--safe"], {"WRP_SAFE": ""}, False),
        ([], {"WRP_SAFE": "other, another"}, False),
        ([], {"WRP_SAFE": "evil"}, True),
        ([], {}, True),
    ],
)
def test_a_configuration_imports_what_is_allowed(
    flags: list[str], environment: dict[str, str], ran: bool, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    done = run(tmp_path, *flags, "--model=evil.Module", "--print_config", **environment)
    assert (tmp_path / "ran").exists() == ran
    assert done.returncode == (0 if ran else 2)
    assert ("Importing 'evil.Module' is not allowed" in done.stderr) != ran


@pytest.mark.parametrize("safe", ["1", "foreign"])
def test_a_run_imports_for_its_trainer_what_is_allowed(
    safe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign.py").write_text(EVIL.replace("LightningModule", "Callback"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WRP_SAFE", safe)
    arguments = {"accelerator": "cpu", "callbacks": [{"class_path": "foreign.Module"}, "DeviceStatsMonitor"]}
    allowed = safe == "foreign"
    with contextlib.nullcontext() if allowed else pytest.raises(WrpError, match="Importing 'foreign.Module'"):
        check_trainer(arguments)
    assert Path("ran").exists() == allowed
    check_trainer({"accelerator": "cpu", "callbacks": "DeviceStatsMonitor"})


@pytest.mark.parametrize("value", ["0", "evil,no name", "evil..x"])
def test_a_value_that_is_no_name_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_SAFE", value)
    assert main(["fit", "--model=SegmentationModule"]) == 2
    assert "expected 1, or names of packages" in capsys.readouterr().err


def test_no_function_is_handed_to_a_callback(tmp_path: Path) -> None:
    callback = ["--trainer.callbacks=LambdaCallback", "--trainer.callbacks.on_fit_start=torch.hub.load"]
    done = run(tmp_path, "--safe", "--model=SegmentationModule", *callback, "--print_config")
    assert done.returncode == 2
    assert "Importing 'torch.hub.load' is not allowed" in done.stderr


def test_our_own_classes_are_allowed(tmp_path: Path) -> None:
    done = run(tmp_path, "--safe", "--model=wrp.PropagationModule", "--model.flow=wrp.flow.dis.DIS", "--print_config")
    assert done.returncode == 0, done.stderr
    assert "wrp.flow.dis.DIS" in done.stdout


OWN = """
from pathlib import Path
from torch import nn
from wrp import SegmentationModule
Path("ran").touch()
class Module(SegmentationModule):
    def configure_network(self):
        return nn.Conv2d(3, self.num_classes, 1)
"""


@pytest.mark.slow
def test_a_module_of_ones_own_comes_back_where_its_package_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    assert main(["data", "synthetic", str(tmp_path / "scene"), "--frames=5", "--size=64x48"]) == 0
    data = ["--data=SegmentationData", "--data.num_classes=10", "--data.root=scene"]
    data.append("--data.sampling.crop_size=[32,32]")
    steps = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
    fitted = wrp("fit", "--model=own.Module", *data, *steps)
    assert fitted.returncode == 0, fitted.stderr
    [checkpoint] = tmp_path.rglob("*.ckpt")

    label = ["autolabel", "scene", "--label-every=4", "--methods=semantic", f"--teacher={checkpoint}"]
    trusted = wrp(*label, "--out=trusted", WRP_SAFE="own")
    assert trusted.returncode == 0, trusted.stderr
    (tmp_path / "ran").unlink()
    refused = wrp(*label, "--out=refused", WRP_SAFE="another")
    assert refused.returncode == 2
    assert "holds a own.Module" in refused.stderr
    assert "WRP_SAFE names it" in refused.stderr
    assert not (tmp_path / "ran").exists()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("flag", ["--teacher", "--refiner"])
def test_a_checkpoint_runs_nothing(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "synthetic", "scene", "--frames=5", "--size=64x48"]) == 0
    torch.save({"state_dict": {}, "bomb": Bomb()}, "evil.ckpt")
    command = ["autolabel", "scene", "--out=out", "--label-every=4", "--weights=none", "--teacher-steps=1"]
    assert main([*command, "--refiner-steps=1", flag, "evil.ckpt"]) == 2
    assert "evil.ckpt cannot be read as a checkpoint" in capsys.readouterr().err
    assert not Path("ran").exists()
    with open("evil.ckpt", "rb") as file, pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)  # it is the bomb that is refused


DATA = ["--data=SegmentationData", "--data.num_classes=3", "--trainer.logger=false", "--trainer.accelerator=cpu"]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of a checkpoint with code in it, and the requests that come for it."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *what: object) -> None:
            asked.append(self.path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save({"state_dict": {}, "bomb": Bomb(), "pytorch-lightning_version": "2.6.6"}, folder / "x.ckpt")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/x.ckpt", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("plugin", [[], ["--trainer.plugins=TorchCheckpointIO"]], ids=["ours", "lightning's"])
def test_a_checkpoint_from_an_address_runs_nothing(
    verb: str, plugin: list[str], served: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = served
    make_folder(tmp_path / "clips", {"walk": 4})
    command = [verb, "--model=SegmentationModule", *DATA, "--data.root=clips", "--data.select.label_every=3", *plugin]
    with pytest.raises(pickle.UnpicklingError) if plugin else contextlib.nullcontext():
        assert main([*command, f"--ckpt_path={address}"]) == 2
        assert f"{address} cannot be read as a checkpoint: " in capsys.readouterr().err
    assert asked
    assert not Path("ran").exists()


def test_no_address_is_read_where_it_has_to_be_safe(
    served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = served
    monkeypatch.setenv("WRP_SAFE", "1")
    for path in (address, "s3://bucket/x.ckpt", "file:///x.ckpt", "registry:model"):
        assert main(["fit", "--model=SegmentationModule", *DATA, f"--ckpt_path={path}"]) == 2
        assert f"ckpt_path {path} is not a local file" in capsys.readouterr().err
    assert not asked


def test_a_configuration_cannot_ask_for_more_than_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("weights_only: false\n")
    assert main(["fit", "--config=c.yaml", "--model=SegmentationModule", *DATA]) == 2


def network(path: Path, **settings: object) -> Path:
    """The checkpoint of a network of whatever hyper-parameters."""
    content = {"state_dict": {}, "hyper_parameters": {"num_classes": 3, **settings}}
    about = {CLASS_KEY: "wrp.segmentation.module.SegmentationModule", FORMAT_KEY: FORMAT}
    torch.save(content | about | {"pytorch-lightning_version": "2.6.6"}, path)
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The encoders that are asked for, none of which is made."""
    asked: list[str] = []

    def create_model(architecture: str, encoder: str, **_: object) -> None:
        asked.append(encoder)
        raise RuntimeError("a hub is asked")

    monkeypatch.setattr(smp, "create_model", create_model)
    return asked


HUBS = [{"encoder_name": f"tu-{name}"} for name in ("hf-hub:evil/net", "local-dir:/evil", "hf_hub:evil/net")]


@pytest.mark.parametrize("settings", HUBS)
def test_a_teacher_asks_no_hub(settings: dict[str, object], made: list[str], tmp_path: Path) -> None:
    teacher = str(network(tmp_path / "teacher.ckpt", network=settings))
    root = str(make_folder(tmp_path / "clips", {"walk": 4}))
    examples = RefinementData(3, CycleExamples(teacher), root)
    for make in (
        lambda: load_segmenter(teacher, 3),
        lambda: PropagationModule(3, ["semantic"], teacher),
        lambda: next(iter(examples.train_dataloader())),
        lambda: RefinementModule(3, RefinerArgs(decoder="FPN", encoder_from=teacher)),
        lambda: SegmentationModule(3, pseudo_labeler=teacher),
    ):
        with pytest.raises(WrpError, match=r"teacher\.ckpt: the hyper-parameters name the encoder 'tu-.*from a hub"):
            make()
    assert not made


@pytest.mark.parametrize("settings", [*HUBS, {"encoder_weights": "imagenet"}])
@pytest.mark.parametrize("safe", ["", "1"])
def test_a_checkpoint_that_is_resumed_asks_no_hub(
    safe: str,
    settings: dict[str, object],
    made: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WRP_SAFE", safe)
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "x.ckpt", _class_path="wrp.SegmentationModule", network=settings)
    command = ["fit", "--model=SegmentationModule", *DATA, "--ckpt_path=x.ckpt"]
    assert main(command) == 2
    assert not made
    assert "to be downloaded from a hub" in capsys.readouterr().err
    [(name, value)] = settings.items()
    assert main([*command, f"--model.network.{name}={value}"]) == 2  # the configuration names it as well
    assert made
    assert "a hub is asked" in capsys.readouterr().err


def test_the_weights_of_flow_are_not_asked_of_a_hub_for_a_checkpoint(tmp_path: Path) -> None:
    flow = {"class_path": "wrp.flow.raft.RAFT", "init_args": {"weights": "DEFAULT"}}
    path = network(tmp_path / "x.ckpt", flow=flow, _instantiator="pytorch_lightning.cli.instantiate_module")
    content = torch.load(path, weights_only=True) | {CLASS_KEY: "wrp.propagation.module.PropagationModule"}
    torch.save(content, path)
    with pytest.raises(WrpError, match="the weights of RAFT small 'DEFAULT', to be downloaded"):
        load_module(PropagationModule, path)


def test_hyper_parameters_call_nothing(tmp_path: Path) -> None:
    path = network(tmp_path / "x.ckpt", _instantiator="os.system")
    with pytest.raises(WrpError, match="call 'os.system', expected"):
        load_segmenter(str(path), 3)


def test_no_file_of_weights_is_named_among_the_options(tmp_path: Path) -> None:
    """Some releases of timm unpickle it."""
    torch.save(Bomb(), tmp_path / "evil.pth")
    settings = {"encoder_name": "tu-regnetx_002", "options": {"checkpoint_path": str(tmp_path / "evil.pth")}}
    with pytest.raises(WrpError, match="checkpoint_path is not read"):
        load_segmenter(str(network(tmp_path / "x.ckpt", network=settings)), 3)


def test_only_classes_of_the_configuration_may_be_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of a folder's name lets nothing be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil.py").write_text("open('ran', 'w')\nfrom torch.nn import Identity as Net\n")
    network(tmp_path / "x.ckpt", _class_path="wrp.SegmentationModule", net={"class_path": "evil.Net"})
    assert main(["fit", "--model=SegmentationModule", *DATA, "--data.root=evil", "--ckpt_path=x.ckpt"]) == 2
    assert "evil.Net, which is imported only where you allow it" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_a_checkpoint_names_no_metric_that_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", lambda *what, **_: asked.append(what))
    net = {"class_path": "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", "init_args": {}}
    path = network(tmp_path / "x.ckpt", net=net, _instantiator="pytorch_lightning.cli.instantiate_module")
    with pytest.raises(WrpError, match=r"x\.ckpt was trained with a network of your own, torchmetrics\..*allow it"):
        load_segmenter(str(path), 3)
    assert not asked


OPTIONS = [
    {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/evil.pth"}},
    {"pretrained_cfg": {"hf_hub_id": "evil/x"}},
]


@pytest.mark.parametrize("settings", [*({"options": options} for options in OPTIONS), {"encoder_name": "resnet34"}])
@pytest.mark.parametrize("safe", ["", "1"])
def test_weights_that_the_configuration_asks_for_are_those_that_it_names(
    safe: str,
    settings: dict[str, object],
    made: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WRP_SAFE", safe)
    monkeypatch.chdir(tmp_path)
    named = {"encoder_name": "tu-regnetx_002", "encoder_weights": "imagenet", **settings}
    network(tmp_path / "x.ckpt", _class_path="wrp.SegmentationModule", network=named)
    asked_for = ["--model.network.encoder_name=tu-regnetx_002", "--model.network.encoder_weights=imagenet"]
    command = ["fit", "--model=SegmentationModule", *asked_for]
    assert main([*command, *DATA, "--ckpt_path=x.ckpt"]) == 2
    assert "to be downloaded from a hub" in capsys.readouterr().err
    assert not made


def test_what_reads_checkpoints_in_a_way_of_its_own_is_given_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning's strategies for sharded models unpickle."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.ckpt").mkdir()
    command = ["fit", "--model=SegmentationModule", "--model.network.encoder_name=tu-regnetx_002", *DATA]
    assert main([*command, "--ckpt_path=folder.ckpt"]) == 2
    assert "is a folder" in capsys.readouterr().err
    root = make_folder(tmp_path / "clips", {"walk": 4})
    monkeypatch.setattr(SingleDeviceStrategy, "load_checkpoint", lambda *_, **__: Path("ran").touch(), raising=False)
    network(tmp_path / "x.ckpt", _class_path="wrp.SegmentationModule", network={"encoder_name": "tu-regnetx_002"})
    assert main([*command, f"--data.root={root}", "--ckpt_path=x.ckpt"]) == 2
    assert "loads checkpoints by itself" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_weights_of_a_module_with_objects_as_arguments_come_back(tmp_path: Path) -> None:
    """As `wrp fit` writes them."""
    loss = {"class_path": "wrp.segmentation.losses.SegmentationLoss", "init_args": {"weights": {"dice": 2.0}}}
    made = SegmentationModule(3, NetworkArgs(encoder_name="tu-regnetx_002"))
    settings = {"num_classes": 3, "network": {"encoder_name": "tu-regnetx_002"}, "loss": loss}
    named = {"_class_path": "wrp.SegmentationModule", "_instantiator": "pytorch_lightning.cli.instantiate_module"}
    content = {"state_dict": made.state_dict(), "hyper_parameters": settings | named}
    made.on_save_checkpoint(content)
    torch.save(content, tmp_path / "x.ckpt")
    assert main(["weights", str(tmp_path / "x.ckpt")]) == 0
    loaded = load_segmenter(str(tmp_path / "x.safetensors"), 3)
    assert loaded.criterion.weights == {"dice": 2.0}
    assert torch.equal(next(loaded.parameters()), next(made.parameters()))
