"""Checkpoints: the very weights, or WrpError; nothing that they name is run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from tests.fuzz.damage import altered, damaged, plain
from wrp import SegmentationModule
from wrp.errors import WrpError
from wrp.io.checkpoints import FORMAT, load_module, network_hash

CHECKPOINT: dict[str, Any] = {
    "state_dict": {"net.weight": torch.arange(6.0).reshape(2, 3, 1, 1), "net.bias": torch.ones(2)},
    "hyper_parameters": {
        "num_classes": 2,
        "network": {"arch": "FPN", "options": {"decoder_pyramid_channels": 64}, "scale": 1.0, "test_scales": None},
        "optimizer": {"name": "adamw", "lr": 0.5},
        "auxiliary": 0.4,
    },
    "wrp_class": "wrp.segmentation.module.SegmentationModule",
    "wrp_format": FORMAT,
    "wrp_labels_seen": ["0123456789abcdef"],
    "pytorch-lightning_version": "2.6.6",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def load(path: Path) -> SegmentationModule | None:
    try:
        module: SegmentationModule = load_module(SegmentationModule, path, net=nn.Conv2d(3, 2, 1))
    except WrpError:
        return None
    return module


def test_the_whole_checkpoint_is_read(folder: Path) -> None:
    path = folder / "whole.ckpt"
    torch.save(CHECKPOINT, path)
    module = load(path)
    assert module is not None
    assert torch.equal(module.state_dict()["net.weight"], CHECKPOINT["state_dict"]["net.weight"])
    assert module.labels_seen == {"0123456789abcdef"}
    assert (module.optimizer.lr, module.network.options) == (0.5, {"decoder_pyramid_channels": 64})


@given(data=st.data())
def test_a_damaged_checkpoint_is_the_same_or_refused(folder: Path, data: st.DataObject) -> None:
    path = folder / "damaged.ckpt"
    torch.save(CHECKPOINT, path)
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    module = load(path)
    if module is not None:
        assert module.num_classes == 2
        for name, weights in CHECKPOINT["state_dict"].items():
            assert torch.equal(module.state_dict()[name], weights)


@given(altered(CHECKPOINT) | plain)
@example({})
@example({**CHECKPOINT, "state_dict": {}})
@example({**CHECKPOINT, "state_dict": [torch.zeros(1)]})
@example({**CHECKPOINT, "state_dict": {"net.weight": torch.zeros(3, 3, 1, 1), "net.bias": torch.ones(2)}})
@example({**CHECKPOINT, "hyper_parameters": {"num_classes": "many"}})
@example({**CHECKPOINT, "hyper_parameters": {"num_classes": 2, "network": {"archer": "FPN"}}})
@example({**CHECKPOINT, "hyper_parameters": {"num_classes": 2, "optimizer": [3]}})
@example({**CHECKPOINT, "wrp_format": "2"})
@example({**CHECKPOINT, "wrp_labels_seen": 3})
@example({**CHECKPOINT, "wrp_labels_seen": [[3]]})
@example({**CHECKPOINT, "wrp_class": "wrp..base.X"})
@example({**CHECKPOINT, "wrp_class": "wrp.__main__.X"})
def test_a_checkpoint_of_something_else_is_refused(folder: Path, content: Any) -> None:
    path = folder / "other.ckpt"
    torch.save(content, path)
    with contextlib.suppress(WrpError):
        assert len(network_hash(path)) == 16
    module = load(path)
    if module is not None:
        assert torch.equal(module.state_dict()["net.bias"], content["state_dict"]["net.bias"])
        assert content["wrp_format"] == FORMAT
        assert module.labels_seen == set(content.get("wrp_labels_seen", []))


@given(st.binary(max_size=200))
@example(b"")
def test_what_is_no_checkpoint_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "nothing.ckpt"
    path.write_bytes(content)
    assert load(path) is None


@pytest.mark.parametrize("net", ["evil.Net", {"class_path": "evil.Net"}])
@pytest.mark.parametrize("argument", ["net", "loss", "pseudo_labeler"])
def test_a_checkpoint_imports_nothing_that_it_names(
    folder: Path, argument: str, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `wrp fit` saves may name classes, and importing one runs its module."""
    monkeypatch.syspath_prepend(folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nfrom torch.nn import Identity as Net\n")
    path = folder / "evil.ckpt"
    named = {"_instantiator": "pytorch_lightning.cli.instantiate_module", argument: net}
    torch.save({**CHECKPOINT, "hyper_parameters": CHECKPOINT["hyper_parameters"] | named}, path)
    is_path = argument == "pseudo_labeler" and isinstance(net, str)
    with pytest.raises(
        WrpError, match="no checkpoint evil.Net" if is_path else "not allowed|imported only where you allow it"
    ):
        load_module(SegmentationModule, path)
    assert "evil" not in sys.modules
    assert not (folder / "ran").exists()


def test_a_checkpoint_may_name_classes_of_the_package(folder: Path) -> None:
    path = folder / "named.ckpt"
    loss = {"class_path": "wrp.segmentation.losses.SegmentationLoss", "init_args": {"weights": {"dice": 2.0}}}
    named = {"_instantiator": "pytorch_lightning.cli.instantiate_module", "loss": loss}
    net = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 2, "kernel_size": 1}}
    torch.save({**CHECKPOINT, "hyper_parameters": CHECKPOINT["hyper_parameters"] | named | {"net": net}}, path)
    module = load_module(SegmentationModule, path)
    assert module.criterion.weights == {"dice": 2.0}
    assert torch.equal(module.net.bias, torch.ones(2))
