"""A refiner is told from one that has learned the errors of another flow."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from wrp import PropagationModule, RefinementModule
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.io.checkpoints import load_module
from wrp.options import RefinerArgs


def learned_with(signature: str, path: Path) -> str:
    """Write the checkpoint of a refiner that has learned with a flow."""
    refiner = RefinementModule(3, RefinerArgs(channels=(4, 8)))
    refiner.flow_signature = signature
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(refiner)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.mark.parametrize(
    ("flow", "warns"), [(DIS().signature, False), ("", False), (DIS("ultrafast").signature, True), ("RAFT small", True)]
)
def test_a_refiner_of_another_flow_is_warned_of(
    flow: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = learned_with(flow, tmp_path / "refiner.ckpt")
    with caplog.at_level(logging.WARNING, "wrp"):
        module = PropagationModule(3, ["motion"], refiner=path, flow=FlowCache(DIS()))
    assert module.refiner is not None
    assert module.refiner.flow_signature == flow
    lines = [record.getMessage() for record in caplog.records if record.name == "wrp"]
    assert len(lines) == warns
    assert all(repr(flow) in line and repr(DIS().signature) in line for line in lines)


def test_a_checkpoint_from_before_names_no_flow(tmp_path: Path) -> None:
    path = learned_with("RAFT small", tmp_path / "refiner.ckpt")
    content = torch.load(path, weights_only=True)
    del content["wrp_flow"]
    torch.save(content, path)
    assert load_module(RefinementModule, path).flow_signature == ""


def test_a_training_remembers_the_flow_of_its_examples() -> None:
    refiner = RefinementModule(3, RefinerArgs(channels=(4, 8)))
    for examples, expected in ((SimpleNamespace(flow=DIS("medium")), DIS("medium").signature), (object(), "before")):
        refiner.flow_signature = "before"
        trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(examples=examples))
        refiner._trainer = trainer
        refiner.on_fit_start()
        assert refiner.flow_signature == expected
