"""Trainings that are stopped and go on to the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.clips import make_folder
from tests.data.small import process
from wrp import CycleExamples, RefinementData, RefinementModule, SegmentationData, SegmentationModule
from wrp.data.propagated import PropagatedLabels
from wrp.data.sampling import TrainSampler
from wrp.flow.dis import DIS
from wrp.options import CycleArgs, NetworkArgs, RefinerArgs, SamplingArgs, SelectArgs
from wrp.runs import training
from wrp.runs.autolabel import autolabel
from wrp.runs.config import Settings
from wrp.runs.processes import Processes
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch_v2 import UniMatchV2Module

STEPS = 6
EVERY_FOURTH = SelectArgs(label_every=4)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "data", {"ride": 9, "walk": 9}, labelled=range(9))


@pytest.fixture(scope="module")
def propagated(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "out"
    autolabel(Settings(str(root), str(out), select=EVERY_FOURTH, methods=["motion"]))
    return out


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, module: type[pl.LightningModule]) -> Callable[[], None]:
    """Make the training of a module stop in the middle of a step; what is returned lets it pass."""
    train: Any = module.training_step

    def training_step(self: pl.LightningModule, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == step:
            raise Stopped
        return train(self, batch, batch_idx)

    monkeypatch.setattr(module, "training_step", training_step)
    return lambda: monkeypatch.setattr(module, "training_step", train)


def frames(root: Path, workers: int, epoch_length: int = 2 * STEPS, **kwargs: Any) -> SegmentationData:
    sampling = SamplingArgs((32, 32), 2, epoch_length)
    return SegmentationData(3, str(root), select=EVERY_FOURTH, sampling=sampling, workers=workers, **kwargs)


def cycles(root: Path, workers: int) -> RefinementData:
    examples = CycleExamples(flow=DIS("ultrafast"), cycles=CycleArgs(displacement=0.5), crops=2, crop_size=(32, 32))
    return RefinementData(3, examples, str(root), select=EVERY_FOURTH, epoch_length=STEPS, workers=workers)


def segmenter(kind: type[SegmentationModule] = SegmentationModule) -> SegmentationModule:
    pl.seed_everything(3, verbose=False)
    return kind(3, NetworkArgs(encoder_name="tu-test_resnet"))  # FPN: it has dropout


def refiner() -> RefinementModule:
    pl.seed_everything(3, verbose=False)
    return RefinementModule(3, RefinerArgs(channels=(4, 8)))


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["teacher", "three-stage student", "unimatch-v2 student", "refiner"])
def test_a_training_that_is_stopped_goes_on_to_the_same_weights(
    what: str, workers: int, root: Path, propagated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)

    def both() -> SegmentationData:
        labels = PropagatedLabels(str(propagated), 0.5, apart=True)
        return frames(root, workers, epoch_length=8, propagated=labels)

    make: dict[str, Callable[[], tuple[pl.LightningModule, pl.LightningDataModule]]] = {
        "teacher": lambda: (segmenter(), frames(root, workers)),
        # Two loaders, and an epoch that ends on the way.
        "three-stage student": lambda: (segmenter(ThreeStageModule), both()),
        "unimatch-v2 student": lambda: (segmenter(UniMatchV2Module), both()),
        "refiner": lambda: (refiner(), cycles(root, workers)),
    }
    module, data = make[what]()
    training.fit(module, data, STEPS, tmp_path / "whole.ckpt")
    for step in (3, 4):  # stopped twice, the second time at the end of an epoch
        module, data = make[what]()
        let_pass = stop_at(step, monkeypatch, type(module))
        with pytest.raises(Stopped):
            training.fit(module, data, STEPS, tmp_path / "resumed.ckpt")
        assert torch.load(tmp_path / "resumed-unfinished.ckpt", weights_only=True)["global_step"] == step
        let_pass()
    module, data = make[what]()
    training.fit(module, data, STEPS, tmp_path / "resumed.ckpt")
    whole, resumed = weights(tmp_path / "whole.ckpt"), weights(tmp_path / "resumed.ckpt")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.ckpt", "whole.ckpt"]


def test_a_training_that_adds_up_gradients_goes_on_to_the_same_weights(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    processes = Processes({"accelerator": "cpu", "accumulate_grad_batches": 4})

    def fit(name: str) -> None:  # six batches an epoch: a step of four and one of two
        training.fit(segmenter(), frames(root, 0), STEPS, tmp_path / name, processes=processes)

    fit("whole.ckpt")
    train: Any = SegmentationModule.training_step
    for place in ((0, 2), (1, 1), (2, 5)):

        def training_step(module: pl.LightningModule, batch: Any, batch_idx: int, place: Any = place) -> Tensor:
            if (module.current_epoch, batch_idx) == place:
                raise Stopped
            return train(module, batch, batch_idx)

        monkeypatch.setattr(SegmentationModule, "training_step", training_step)
        with pytest.raises(Stopped):
            fit("resumed.ckpt")
    monkeypatch.setattr(SegmentationModule, "training_step", train)
    fit("resumed.ckpt")
    whole, resumed = weights(tmp_path / "whole.ckpt"), weights(tmp_path / "resumed.ckpt")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_training_that_goes_on_behind_a_third_has_kept_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    save, third = training._Unfinished.on_train_batch_end, STEPS // 3

    def save_and_stop(self: Any, trainer: pl.Trainer, *rest: Any) -> None:
        save(self, trainer, *rest)
        if trainer.global_step == third:
            raise Stopped

    monkeypatch.setattr(training._Unfinished, "on_train_batch_end", save_and_stop)
    with pytest.raises(Stopped):
        training.fit(segmenter(), frames(root, 0), STEPS, tmp_path / "net.ckpt", thirds=True)
    assert torch.load(tmp_path / "net-unfinished.ckpt", weights_only=True)["global_step"] == third
    assert torch.load(training.thirds_of(tmp_path / "net.ckpt")[0], weights_only=True)["global_step"] == third


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_of_lightnings_goes_on_at_the_end_of_an_epoch(workers: int, root: Path, tmp_path: Path) -> None:
    class First(SegmentationModule):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                raise Stopped

    def trainer(folder: Path) -> pl.Trainer:
        saving = pl.callbacks.ModelCheckpoint(folder, save_last=True, save_on_train_epoch_end=True)
        return pl.Trainer(
            max_epochs=3,
            callbacks=[saving],
            accelerator="cpu",
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
        )

    trainer(tmp_path / "whole").fit(segmenter(), frames(root, workers, epoch_length=4))
    with pytest.raises(Stopped):
        trainer(tmp_path / "resumed").fit(segmenter(First), frames(root, workers, epoch_length=4))
    last = tmp_path / "resumed" / "last.ckpt"
    trainer(tmp_path / "resumed").fit(segmenter(), frames(root, workers, epoch_length=4), ckpt_path=last)
    whole, resumed = weights(tmp_path / "whole" / "last.ckpt"), weights(last)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_damaged_unfinished_training_begins_anew(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a-unfinished.ckpt").write_bytes(b"no checkpoint")
    training.fit(segmenter(), frames(root, 0), 1, tmp_path / "a.ckpt")
    assert "a-unfinished.ckpt cannot be read" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_each_process_leaves_out_what_it_has_served() -> None:
    for rank in range(2):
        with process(rank, 2):
            sampler = TrainSampler(range(7), 20, seed=0)  # type: ignore[arg-type]
            whole = list(sampler)
            assert len(whole) == 10
            sampler.start = 6
            assert list(sampler) == whole[6:]
