"""Checkpoints: the very weights, or WrpError; nothing that they name is run."""

from __future__ import annotations

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
from wrp.modules.loading import load_module

CHECKPOINT: dict[str, Any] = {
    "state_dict": {"net.weight": torch.arange(6.0).reshape(2, 3, 1, 1), "net.bias": torch.ones(2)},
    "hyper_parameters": {"num_classes": 2, "losses": {"cross_entropy": 1.0}, "scale": 1.0, "options": None},
    "wrp_class": "wrp.modules.segmentation.SegmentationModule",
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
@example({**CHECKPOINT, "state_dict": {"net.weight": torch.zeros(3, 3, 1, 1), "net.bias": torch.ones(2)}})
@example({**CHECKPOINT, "hyper_parameters": {"num_classes": "many"}})
@example({**CHECKPOINT, "wrp_class": "wrp..base.X"})
@example({**CHECKPOINT, "wrp_class": "wrp.__main__.X"})
def test_a_checkpoint_of_something_else_is_refused(folder: Path, content: Any) -> None:
    path = folder / "other.ckpt"
    torch.save(content, path)
    module = load(path)
    if module is not None:
        assert torch.equal(module.state_dict()["net.bias"], content["state_dict"]["net.bias"])


@given(st.binary(max_size=200))
@example(b"")
def test_what_is_no_checkpoint_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "nothing.ckpt"
    path.write_bytes(content)
    assert load(path) is None


@pytest.mark.parametrize("net", ["evil.Net", {"class_path": "evil.Net"}])
@pytest.mark.parametrize("argument", ["net", "flow"])
def test_a_checkpoint_imports_nothing_that_it_names(
    folder: Path, argument: str, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `wrp fit` saves may name classes, and importing one runs its module."""
    monkeypatch.syspath_prepend(folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nfrom torch.nn import Identity as Net\n")
    path = folder / "evil.ckpt"
    named = {"_instantiator": "pytorch_lightning.cli.instantiate_module", argument: net}
    torch.save({**CHECKPOINT, "hyper_parameters": CHECKPOINT["hyper_parameters"] | named}, path)
    with pytest.raises(WrpError, match="not allowed"):
        load_module(SegmentationModule, path)
    assert "evil" not in sys.modules
    assert not (folder / "ran").exists()


def test_a_checkpoint_may_name_classes_of_the_package(folder: Path) -> None:
    path = folder / "named.ckpt"
    flow = {"class_path": "wrp.flow.dis.DIS", "init_args": {"preset": "fine"}}
    named = {"_instantiator": "pytorch_lightning.cli.instantiate_module", "flow": flow}
    net = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 2, "kernel_size": 1}}
    torch.save({**CHECKPOINT, "hyper_parameters": CHECKPOINT["hyper_parameters"] | named | {"net": net}}, path)
    module = load_module(SegmentationModule, path)
    assert module.flow.estimator.preset == "fine"
    assert torch.equal(module.net.bias, torch.ones(2))
