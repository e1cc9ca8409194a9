"""What the refiner learns from: cycles, pairs, and disturbed sources."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.clips import make_folder
from tests.refinement.small import SIZE, Constant, window
from wrp import CycleExamples, RefinementModule, SegmentationModule
from wrp.errors import WrpError
from wrp.geometry.fusion import WarpedLabels, gather
from wrp.io.checkpoints import load_module
from wrp.options import CycleArgs, NetworkArgs, RefinerArgs
from wrp.refinement import sampler
from wrp.refinement.network import refiner_input
from wrp.refinement.store import CycleRecord, draw_sources
from wrp.structures import IGNORE_INDEX


def record(direct: bool) -> CycleRecord:
    return CycleExamples(flow=Constant(direct)).record(window(), 3)


def test_a_cycle_over_one_flow_returns_however_wrong_it_is() -> None:
    label, said = window().labels[1], record(direct=False).cycles[1]
    assert said.labels.shape == (1, *SIZE)
    known = said.labels[0] != IGNORE_INDEX
    assert known.any()
    assert torch.equal(said.labels[0][known], label[known])


def test_a_cycle_out_and_back_along_different_flows_shows_the_error() -> None:
    label, said = window().labels[1], record(direct=True).cycles[1]
    assert said.labels.shape == (2, *SIZE)
    # Out by two and back by one, and the other way round: a pixel off to either side.
    for labels, shift in zip(said.labels[:, :, 4:-4], (1, -1), strict=True):
        assert torch.equal(labels, label.roll(-shift, 1)[:, 4:-4])


def test_a_frame_is_validated_with_its_longest_cycle_on_each_side() -> None:
    made = record(direct=False)
    both = {offset: replace(made.cycles[1], distance=torch.tensor([float(abs(offset))])) for offset in (-3, -1, 1, 2)}
    for offsets, longest in (((-3, -1, 1, 2), [3.0, 2.0]), ((1, 2), [2.0]), ((-1, -3), [3.0])):
        cycles = {offset: both[offset] for offset in offsets}
        assert replace(made, cycles=cycles).longest().warped.distance.tolist() == longest


def test_two_cycles_of_two_sources_each_are_two_keyframes() -> None:
    torch.manual_seed(0)
    met = set()
    for _ in range(20):
        said = gather(draw_sources(record(direct=True), 2, 0.0))
        met.add(tuple(said.keyframe.tolist()))
    assert met == {(0, 0, 1, 1), (0, 1, 1), (0, 0, 1)}


def test_sources_are_disturbed_and_the_truth_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shown: list[WarpedLabels] = []
    monkeypatch.setattr(sampler, "refiner_input", lambda *given: shown.append(given[1]) or refiner_input(*given))
    batch = window()
    quiet = CycleExamples(flow=Constant(True), crop_size=SIZE)
    noisy = CycleExamples(flow=Constant(True), crop_size=SIZE, cycles=CycleArgs(displacement=3.0))
    made = quiet.record(batch, 3)
    crop = made.crop([made.cycles[1]], (slice(None), slice(None)))
    quiet.draw(crop)
    assert torch.equal(shown.pop().labels, crop.warped.labels)
    truths = [noisy.draw(crop)[1] for _ in range(10)]
    assert any(not torch.equal(given.labels, crop.warped.labels) for given in shown)
    assert all(torch.equal(given.photometric, crop.warped.photometric) for given in shown)
    for truth in truths:
        assert torch.equal(truth, batch.labels[1]) or torch.equal(truth, batch.labels[1].flip(-1))
    examples = noisy.training([batch], 3, 0)[0]
    assert torch.isfinite(RefinementModule(3, RefinerArgs((4, 8))).training_step(examples, 0))


@pytest.mark.slow
def test_two_processes_fit_a_refiner(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 7}, labelled=(0, 3, 6))
    command = [sys.executable, "-m", "wrp", "fit", "--model=RefinementModule"]
    command += ["--model.network.channels=[4,8,8]", "--data=RefinementData", "--data.num_classes=3"]
    command += [f"--data.root={root}", "--data.examples=CycleExamples", "--data.examples.crop_size=[16,32]"]
    command += ["--data.examples.crops=2", "--data.examples.keep.folder=kept", "--data.val.overlap=true"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command += ["--trainer.max_steps=2", "--trainer.logger=false"]
    command += ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "out").glob("*.ckpt"))) == 1
    assert len(list((tmp_path / "kept").glob("*.cycles"))) == 3


def test_a_labelled_frame_is_seen_by_the_teacher_that_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Says(torch.nn.Module):
        """Class ``c``, everywhere."""

        def __init__(self, c: int) -> None:
            super().__init__()
            self.c, self.num_classes = c, 3

        def probabilities(self, images: Tensor) -> Tensor:
            probs = torch.zeros(len(images), 3, *images.shape[-2:])
            probs[:, self.c] = 1
            return probs

    monkeypatch.setattr(sampler, "load_segmenter", lambda path, _: Says(int(path)))
    source = CycleExamples(fold_teachers=["1", "2"], flow=Constant(False))
    for number, c in ((0, 1), (1, 2), (2, 1)):
        assert (source.record(replace(window(), number=number), 3).teacher_probs[c] == 1).all()


def test_crossed_ways_keep_cycles_from_cancelling() -> None:
    label = window().labels[1]

    def shifts(**options: Any) -> set[bool]:
        source = CycleExamples(flow=Constant(True), cycles=CycleArgs(**options))
        said = source.record(window(), 3).cycles[1].labels[:, :, 4:-4]
        return {torch.equal(labels, label[:, 4:-4]) for labels in said}

    assert shifts() == {False}
    assert shifts(crossed=False) == {True}


def small_teacher() -> SegmentationModule:
    options = {"decoder_pyramid_channels": 16}
    return SegmentationModule(3, NetworkArgs("FPN", "tu-test_resnet", options=options))


def save(module: pl.LightningModule, path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("decoder", ["Unet", "FPN"])
def test_a_refiner_sees_through_the_encoder_of_its_teacher(decoder: str, freeze: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = small_teacher()
    save(teacher, tmp_path / "teacher.ckpt")
    network = RefinerArgs((4, 8), decoder, encoder_from=str(tmp_path / "teacher.ckpt"), freeze_encoder=freeze)
    module = RefinementModule(3, network)
    source = CycleExamples(teacher, flow=Constant(True), crops=2, crop_size=(16, 16))
    examples = source.training([window()], 3, 0)[0]
    plain = {name: tensor.clone() for name, tensor in teacher.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    for _ in range(2):  # the head is zero at first, and nothing behind it learns
        module.train().training_step(examples, 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    seen = module.net.view.net.encoder.state_dict()
    assert all(torch.equal(seen[name], plain[name]) for name in plain) == freeze
    assert all(torch.equal(tensor, plain[name]) for name, tensor in teacher.backbone.state_dict().items())

    save(module, tmp_path / "refiner.ckpt")
    (tmp_path / "teacher.ckpt").unlink()
    loaded = load_module(RefinementModule, tmp_path / "refiner.ckpt")
    inputs = source.validation([window()], 3)[0].inputs
    assert torch.equal(loaded(inputs), module.eval()(inputs))


def test_a_decoder_needs_an_encoder() -> None:
    with pytest.raises(WrpError, match="sees through an encoder: give network.encoder_name, or network.encoder_from"):
        RefinementModule(3, RefinerArgs(decoder="FPN"))
    assert RefinementModule(3, RefinerArgs(decoder="FPN", encoder_name="resnet18")).net.view is not None
