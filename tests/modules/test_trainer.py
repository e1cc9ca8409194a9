"""Trainings under the Trainer's flags and callbacks; experiments/trainer_matrix.py says what is checked of each."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn

from wrp import RefinementModule, SegmentationData, SegmentationModule
from wrp.cli.lightning import run
from wrp.errors import WrpError
from wrp.io.checkpoints import load_module
from wrp.module import BaseModule
from wrp.options import NetworkArgs, OptimizerArgs, RefinerArgs, SamplingArgs, SelectArgs

SCRIPT = Path(__file__).parents[2] / "experiments" / "trainer_matrix.py"
spec = importlib.util.spec_from_file_location("trainer_matrix", SCRIPT)
assert spec is not None
assert spec.loader is not None
matrix = importlib.util.module_from_spec(spec)
sys.modules["trainer_matrix"] = matrix  # where its dataclasses look for their types
spec.loader.exec_module(matrix)

CELLS = list(matrix.pairwise())
ALONE = [cell for cell in CELLS if cell.processes == 1]
TOGETHER = [cell for cell in CELLS if cell.processes == 2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = matrix.make_data(tmp_path_factory.mktemp("matrix"))
    return found


def expected(cell: Any) -> str:
    """How the result of a cell begins."""
    if cell.module == "PropagationModule" and cell.precision == "bf16-true":
        return "refused: labels are warped along flow in float32"
    if cell.feature == "Tuner.scale_batch_size" and cell.processes > 1:
        return "refused: Tuning the batch size is currently not supported"
    return ""


def check(cell: Any, result: str) -> None:
    assert result.startswith(expected(cell)), result
    assert bool(result) == bool(expected(cell)), result
    assert "\n" not in result


@pytest.mark.slow
@pytest.mark.parametrize("cell", ALONE, ids=lambda cell: f"{cell.module}-{cell.precision}-{cell.feature}")
def test_a_feature_works_or_is_refused(cell: Any, root: Path, tmp_path: Path) -> None:
    check(cell, matrix.run_cell(cell, root, tmp_path / "cell"))


@pytest.mark.slow
def test_features_work_or_are_refused_on_two_processes(root: Path, tmp_path: Path) -> None:
    for cell, result in matrix.run_together(TOGETHER, root, tmp_path / "together").items():
        check(cell, result)


def test_any_two_values_meet() -> None:
    columns = ("module", "precision", "processes", "feature")
    every = [cell for cell in matrix.product() if cell.module != "PropagationModule"]
    met = [cell for cell in CELLS if cell.module != "PropagationModule"]
    for one in columns:
        for other in columns[: columns.index(one)]:
            wanted, found = ({(getattr(cell, one), getattr(cell, other)) for cell in cells} for cells in (every, met))
            assert wanted == found, (one, other)


def test_the_table_of_the_docs_has_every_cell() -> None:
    """It was made by the script as it is."""
    text = (SCRIPT.parents[1] / "docs" / "trainer.md").read_text(encoding="utf-8")
    for feature in (*matrix.FEATURES, *matrix.VERBS):
        assert f"| {feature} |" in text
    assert "failed" not in text


class Small(nn.Module):
    """A network with an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.head = nn.Conv2d(4, matrix.CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits


QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "limit_val_batches": 0, "max_epochs": 1,
}  # fmt: skip


def data(root: Path, steps: int = 2) -> SegmentationData:
    sampling = SamplingArgs((32, 32), batch_size=2, epoch_length=2 * steps)
    return SegmentationData(matrix.CLASSES, str(root), select=SelectArgs(label_every=4), sampling=sampling)


def fit(module: pl.LightningModule, root: Path, **flags: Any) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, **flags})
    trainer.fit(module, data(root))
    return trainer


@pytest.mark.parametrize(
    ("stop", "hook", "thaws"),
    [
        (2, "on_train_batch_end", False),
        (3, "on_train_batch_end", False),
        (3, "on_train_batch_end", True),
        (5, "on_train_batch_end", True),
        (6, "on_train_epoch_end", True),
    ],
)
def test_a_training_goes_on_within_any_epoch(stop: int, hook: str, thaws: bool, root: Path, tmp_path: Path) -> None:
    """Also behind the epoch whose start thaws the encoder."""

    def save(trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == stop:
            trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    saving = pl.Callback()
    setattr(saving, hook, save)
    found = []
    for callbacks, path in (([saving], None), ([], tmp_path / "stopped.ckpt")):
        pl.seed_everything(0, verbose=False)
        module, thaw = small(), [BackboneFinetuning(1)] if thaws else []
        trainer = pl.Trainer(**{**QUIET, "max_epochs": 4, "callbacks": [*callbacks, *thaw]})
        trainer.fit(module, data(root), ckpt_path=path, weights_only=True)
        assert trainer.global_step == 8
        found.append(matrix.weights(module))
    assert matrix.same(*found)


class Rates(pl.Callback):
    """The learning rate of each group at each step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def small(**optimizer: Any) -> SegmentationModule:
    return SegmentationModule(matrix.CLASSES, net=Small(), optimizer=OptimizerArgs(**optimizer))


@pytest.mark.parametrize("optimizer", [{}, {"encoder_lr": 0.1}, {"layer_decay": 0.5}], ids=str)
def test_an_encoder_thaws_beside_its_groups(optimizer: dict[str, Any], root: Path) -> None:
    module, rates = small(**optimizer), Rates()
    before = module.net.encoder[0].weight.detach().clone()  # type: ignore[union-attr, index]
    fit(module, root, max_epochs=3, callbacks=[BackboneFinetuning(1), rates])
    first = len(rates.seen[0])  # what normalises batches is never frozen
    assert [len(seen) - first for seen in rates.seen] == [0, 0, 1, 1, 1, 1]
    assert rates.seen[2][-1] == pytest.approx(rates.seen[2][0] / 10)
    assert (module.net.encoder[0].weight != before).any()  # type: ignore[union-attr, index]


def test_what_has_no_encoder_cannot_be_thawed(root: Path) -> None:
    module = SegmentationModule(matrix.CLASSES, net=nn.Conv2d(3, matrix.CLASSES, 1))
    with pytest.raises(WrpError, match="need an encoder: a Conv2d has no attribute 'encoder'"):
        fit(module, root, callbacks=[BackboneFinetuning(1)])
    with pytest.raises(WrpError, match=r"this refiner has none: give network\.decoder"):
        _ = RefinementModule(3, RefinerArgs((4, 8)), OptimizerArgs(encoder_lr=0.1)).parameter_groups()


def test_the_encoder_of_a_refiner_has_its_own_learning_rate() -> None:
    network = RefinerArgs((4, 8), "FPN", matrix.ENCODER, freeze_encoder=False)
    module = RefinementModule(3, network, OptimizerArgs(lr=1.0, encoder_lr=0.1))
    encoder = {id(parameter) for parameter in module.backbone.parameters()}
    for group in module.parameter_groups():
        assert {id(p) in encoder for p in group["params"]} == {group.get("lr") == 0.1}
    frozen = RefinementModule(3, network, OptimizerArgs(encoder_lr=0.0))
    assert not any(parameter.requires_grad for parameter in frozen.backbone.parameters())


def test_an_average_of_the_weights_leaves_out_what_is_frozen(root: Path, tmp_path: Path) -> None:
    module = SegmentationModule(matrix.CLASSES, matrix.SMALL, pseudo_labeler=small())
    last = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True)
    fit(module, root, callbacks=[EMAWeightAveraging(decay=0.5), last], enable_checkpointing=True)
    content = torch.load(last.best_model_path, weights_only=True)
    for key in ("state_dict", "current_model_state"):
        assert content[key].keys() == module.state_dict().keys()
        assert not any(name.startswith("pseudo_labeler") for name in content[key])
    assert load_module(SegmentationModule, last.best_model_path).pseudo_labeler is None


def test_frozen_weights_stay_where_others_are_loaded() -> None:
    module = SegmentationModule(matrix.CLASSES, net=Small(), pseudo_labeler=small())
    kept = [tensor.clone() for tensor in module.pseudo_labeler.state_dict().values()]
    wrapped = nn.ModuleDict({"inner": module})
    wrapped.load_state_dict(wrapped.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(kept, module.pseudo_labeler.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"net"):
        module.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"other\""):
        module.load_state_dict(module.state_dict() | {"other": torch.zeros(1)})


def test_a_subclass_need_not_call_what_it_overrides(root: Path) -> None:
    class Mine(SegmentationModule):
        def on_fit_start(self) -> None:
            """Do something else."""

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            """Do something else."""

    assert fit(Mine(matrix.CLASSES, net=Small()), root).global_step == 2


def poly(step: int, steps: int, power: float = 0.9) -> float:
    return float((1 - step / steps) ** power)


def test_the_learning_rate_falls_to_zero_in_every_group(root: Path) -> None:
    module, rates = small(lr=0.1, encoder_lr=0.5), Rates()
    fit(module, root, max_epochs=3, callbacks=[rates])
    expected = [[0.1 * poly(step, 6) * of for of in (1, 0.5, 0.5, 0.5)] for step in range(6)]
    assert rates.seen == [pytest.approx(wanted, rel=1e-12) for wanted in expected]


def test_the_learning_rate_rises_first_where_asked(root: Path) -> None:
    rates = Rates()
    fit(small(lr=0.1, warmup=3), root, max_epochs=3, callbacks=[rates])
    rising = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
    expected = [0.1 * poly(step, 6) * part for step, part in enumerate(rising)]
    assert [rate for [rate] in rates.seen] == pytest.approx(expected, rel=1e-9)


def test_a_training_without_an_end_has_a_constant_rate(root: Path) -> None:
    endless = {"max_epochs": -1, "max_time": {"seconds": 1}}
    with pytest.raises(WrpError, match=r"with optimizer\.power=0, .*no known end: set trainer\.max_steps") as error:
        fit(small(), root, **endless)
    assert "\n" not in str(error.value)
    rates = Rates()
    assert fit(small(lr=0.1, power=0.0), root, **endless, callbacks=[rates]).global_step > 0
    assert all(seen == [0.1] for seen in rates.seen)


@pytest.mark.parametrize("options", [{"warmup": -1}, {"power": -0.1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(WrpError, match=r"optimizer\.warmup and optimizer\.power must be at least 0"):
        OptimizerArgs(**options)


def test_the_learning_rate_that_is_set_is_saved() -> None:
    module = SegmentationModule(3, NetworkArgs(encoder_name=matrix.ENCODER))
    module.lr = 0.25
    assert module.optimizer == OptimizerArgs(lr=0.25)
    assert module.hparams["optimizer"]["lr"] == 0.25
    assert BaseModule().lr == OptimizerArgs().lr


def by_command(root: Path, *flags: str) -> Any:
    where = [f"--data.root={root}", "--data.select.label_every=4", "--data.sampling.crop_size=[32,32]"]
    size = ["--data.sampling.batch_size=2", "--data.sampling.epoch_length=4", "--trainer.limit_val_batches=0"]
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    model = ["--model=SegmentationModule", f"--model.network.encoder_name={matrix.ENCODER}"]
    return run(["fit", *model, "--data=SegmentationData", *where, *size, *quiet, "--trainer.max_epochs=3", *flags])


def test_the_optimizer_of_the_command_line_keeps_the_groups(root: Path) -> None:
    chosen = ["--optimizer=RAdam", "--optimizer.lr=0.5", "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.1"]
    cli = by_command(root, "--model.optimizer.encoder_lr=0.1", *chosen)
    [optimizer] = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.RAdam)
    head, *encoder = (group["initial_lr"] for group in optimizer.param_groups)
    assert head == 0.5
    assert encoder
    assert encoder == pytest.approx([0.05] * len(encoder))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-3)  # after three epochs
    assert cli.model.hparams["optimizer"]["lr"] == 0.5


def test_the_schedule_of_the_command_line_takes_no_warmup(root: Path) -> None:
    with pytest.raises(WrpError, match=r"model\.optimizer\.warmup is that of the poly schedule: leave it out"):
        by_command(root, "--model.optimizer.warmup=2", "--lr_scheduler=ConstantLR")
    cli = by_command(root, "--lr_scheduler=ConstantLR", "--lr_scheduler.factor=0.5", "--lr_scheduler.total_iters=9")
    assert isinstance(cli.trainer.optimizers[0], torch.optim.AdamW)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0.5e-3


SPAWN = """
import sys
import pytorch_lightning as pl
import torch
from torch import nn
from wrp import SegmentationData, SegmentationModule
from wrp.options import SamplingArgs

if __name__ == "__main__":
    data = SegmentationData(8, sys.argv[1], sampling=SamplingArgs((32, 32), batch_size=2, epoch_length=8))
    module = SegmentationModule(8, net=nn.Conv2d(3, 8, 3, padding=1))
    quiet = dict(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=0)
    pl.Trainer(**quiet, devices=1).fit(module, data)
    before = module.net.weight.detach().clone()
    pl.Trainer(**quiet, devices=2, strategy="ddp_spawn").fit(module, data)
    assert (module.net.weight != before).any()
"""


@pytest.mark.slow
def test_processes_are_spawned_after_a_training(root: Path, tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(SPAWN)
    command = [sys.executable, "fit.py", str(root)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_fabric_trains_and_scores_on_two_processes(tmp_path: Path) -> None:
    """As the page has it: the loaders shard, the weights stay the same, and no frame is scored twice."""
    page = (SCRIPT.parents[1] / "docs" / "trainer.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(import torch\nimport wrp\nfrom lightning_fabric.*?)```", page, re.S)
    assert len(block.splitlines()) <= 20
    block = block.replace("Fabric()", "Fabric(accelerator='cpu', devices=2)")  # which finds GPUs by itself
    block += "counted = int(module.val_score.matrix.sum())\n"
    block += "state = {'weights': module.net.state_dict(), 'score': module.val_score.compute(), 'counted': counted}\n"
    (tmp_path / "train.py").write_text(block + "torch.save(state, f'{fabric.global_rank}.pt')\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    parameters = [name for name in one["weights"] if not re.search("running|batches", name)]
    assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in parameters)
    assert one["score"] == two["score"]
    loader = SegmentationData(10, select=SelectArgs(label_every=8)).val_dataloader()
    assert one["counted"] + two["counted"] == sum(int((batch.labels != 255).sum()) for batch in loader)
