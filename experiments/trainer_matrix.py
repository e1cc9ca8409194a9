"""Train each module for two steps under each feature of Lightning, precision and number of processes; check the result.

    python experiments/trainer_matrix.py docs/trainer.md

writes the tables of docs/trainer.md: about ten minutes on two cores. ``tests/modules/test_trainer.py`` runs a
part of it, in which every two values of different columns meet.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from wrp import (
    CycleExamples,
    LabelWriter,
    PropagationData,
    PropagationModule,
    RefinementData,
    RefinementModule,
    SegmentationData,
    SegmentationModule,
)
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import WrpError, in_short
from wrp.io.checkpoints import load_module
from wrp.io.versions import versions
from wrp.options import KeepArgs, NetworkArgs, OptimizerArgs, RefinerArgs, SamplingArgs, SelectArgs

MODULES = ("SegmentationModule", "RefinementModule")
# On the CPU, Lightning replaces 16-mixed by bf16-mixed.
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", *(("16-mixed",) if torch.cuda.is_available() else ()))
PROCESSES = (1, 2)

ENCODER = "tu-regnetx_002"
SMALL = NetworkArgs(encoder_name=ENCODER, options={"decoder_pyramid_channels": 16})
SELECT = SelectArgs(label_every=4)
CLASSES = 8
STEPS = 2


@dataclass(frozen=True)
class Cell:
    """One combination."""

    module: str
    precision: str
    processes: int
    feature: str


class Job:
    """What a feature needs to run one cell.

    Args:
        cell: The cell.
        root: Folder of the data set, see :func:`make_data`.
        folder: An empty folder, the same in all processes.
    """

    def __init__(self, cell: Cell, root: Path, folder: Path) -> None:
        self.cell, self.root, self.folder = cell, root, folder

    def module(self, encoder: bool = False, **optimizer: Any) -> Any:
        """Make the module; a refiner only sees through an encoder if ``encoder``."""
        torch.manual_seed(0)
        if self.cell.module == "SegmentationModule":
            return SegmentationModule(CLASSES, SMALL, OptimizerArgs(**optimizer))
        args = RefinerArgs((4, 8), "FPN", ENCODER, freeze_encoder=False) if encoder else RefinerArgs((4, 8))
        return RefinementModule(CLASSES, args, OptimizerArgs(**optimizer))

    def data(self) -> pl.LightningDataModule:
        """Make the data, with epochs of two steps."""
        if self.cell.module == "SegmentationModule":
            sampling = SamplingArgs((32, 32), batch_size=2, epoch_length=2 * STEPS * self.cell.processes)
            return SegmentationData(CLASSES, str(self.root), select=SELECT, sampling=sampling)
        examples = CycleExamples(crops=2, crop_size=(16, 16), keep=KeepArgs(str(self.root.parent / "examples")))
        return RefinementData(CLASSES, examples, str(self.root), select=SELECT, radius=2, epoch_length=STEPS)

    def trainer(self, *callbacks: pl.Callback, **flags: Any) -> pl.Trainer:
        """Make a Trainer for one epoch of two steps."""
        strategy: Any = DDPStrategy(timeout=timedelta(seconds=90)) if self.cell.processes > 1 else "auto"
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        given = {
            **quiet, "accelerator": "gpu" if torch.cuda.is_available() else "cpu", "devices": self.cell.processes,
            "strategy": strategy, "precision": self.cell.precision, "max_epochs": 1, "num_sanity_val_steps": 0,
            "callbacks": list(callbacks), "enable_checkpointing": checkpoints, "default_root_dir": self.folder,
        }  # fmt: skip
        return pl.Trainer(**{**given, **flags})

    def fit(self, *callbacks: pl.Callback, **flags: Any) -> tuple[Any, pl.Trainer]:
        """Train a fresh module; return it with its Trainer."""
        module, trainer = self.module(), self.trainer(*callbacks, **flags)
        trainer.fit(module, self.data())
        return module, trainer


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether weights are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain(job: Job) -> None:
    """Train, and validate."""
    module, trainer = job.fit()
    assert trainer.global_step == STEPS
    assert not same(weights(module), weights(job.module().to(module.dtype)))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert "val/miou" in trainer.callback_metrics


def early_stopping(job: Job) -> None:
    """Stop after the first epoch that is not better by far."""
    callback = EarlyStopping("val/miou", mode="max", patience=1, min_delta=1000.0)
    _, trainer = job.fit(callback, max_epochs=5)
    assert trainer.current_epoch == 2
    assert callback.stopped_epoch == 1


def best_checkpoint(job: Job) -> None:
    """Keep the best checkpoint, whose score is that which was logged, also where it is loaded."""
    best = ModelCheckpoint(job.folder, "best", monitor="val/miou", mode="max")
    module, trainer = job.fit(best, max_epochs=2)
    [scores] = trainer.validate(module, job.data(), ckpt_path="best", verbose=False)
    assert scores["val/miou"] == float(best.best_model_score)  # type: ignore[arg-type]
    loaded = load_module(type(module), best.best_model_path)
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights(loaded).values())


def ema(job: Job) -> None:
    """Average the weights: the checkpoint holds the average, loads, and the training goes on from it."""
    module, trainer = job.fit(
        EMAWeightAveraging(decay=0.5), last := ModelCheckpoint(job.folder, "last", save_on_train_epoch_end=True)
    )
    content = torch.load(last.best_model_path, weights_only=True)
    assert not same(content["state_dict"], content["current_model_state"])
    assert same(content["state_dict"], weights(module))
    assert load_module(type(module), last.best_model_path).state_dict().keys() == content["state_dict"].keys()
    trainer = job.trainer(EMAWeightAveraging(decay=0.5), max_epochs=2)
    trainer.fit(job.module(), job.data(), ckpt_path=last.best_model_path, weights_only=True)
    assert trainer.global_step == 2 * STEPS


def swa(job: Job) -> None:
    """Average the weights of epochs."""
    module, _ = job.fit(StochasticWeightAveraging(1e-3, swa_epoch_start=1), max_epochs=3)
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights(module).values())


def thaw(job: Job) -> None:
    """Freeze the encoder in the first epoch, and train it in the second."""

    class Watch(pl.Callback):
        filters: list[list[Tensor]] = []

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            self.filters.append([p.detach().clone() for p in pl_module.backbone.parameters() if p.ndim == 4])

    watch = Watch()
    watch.filters = [[p.detach().clone() for p in job.module(encoder=True).backbone.parameters() if p.ndim == 4]]
    module, trainer = job.module(encoder=True), job.trainer(BackboneFinetuning(1), watch, max_epochs=2)
    trainer.fit(module, job.data())
    start, frozen, thawed = watch.filters
    assert all(torch.equal(a.to(b.dtype), b) for a, b in zip(start, frozen, strict=True))
    assert any((a != b).any() for a, b in zip(frozen, thawed, strict=True))
    _agree(module)


def lr_monitor(job: Job) -> None:
    """Log the learning rate of each step, which falls."""
    _, trainer = job.fit(LearningRateMonitor("step"), logger=CSVLogger(job.folder), log_every_n_steps=1, max_epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0
    if trainer.is_global_zero:
        lines = Path(trainer.logger.log_dir, "metrics.csv").read_text().splitlines()  # type: ignore[arg-type, union-attr]
        column = next(i for i, name in enumerate(lines[0].split(",")) if name.startswith("lr-"))
        rates = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
        assert len(rates) == 2 * STEPS
        assert rates == sorted(rates, reverse=True)


def clipping(job: Job) -> None:
    """Clip the norm of the gradient."""
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            grads = [p.grad.float().norm() for p in pl_module.parameters() if p.grad is not None]
            seen.append(float(torch.stack(grads).norm()))

    job.fit(Watch(), gradient_clip_val=1e-3)
    assert len(seen) == STEPS
    assert all(0 < norm <= 1.02e-3 for norm in seen)


def accumulation(job: Job) -> None:
    """Take one step for two batches."""
    _, trainer = job.fit(accumulate_grad_batches=2)
    assert trainer.global_step == STEPS // 2


def overfit(job: Job) -> None:
    """Train on the same batch again and again."""
    seen: list[Any] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            seen.append(batch)

    _, trainer = job.fit(Watch(), last := ModelCheckpoint(job.folder, "last"), overfit_batches=1, max_epochs=2)
    assert trainer.global_step == 2
    assert torch.equal(seen[0].labels, seen[1].labels)
    assert Path(last.best_model_path).is_file()


def limits(job: Job) -> None:
    """Leave out batches."""
    _, trainer = job.fit(limit_train_batches=1, limit_val_batches=1)
    assert trainer.global_step == 1


def fast_dev_run(job: Job) -> None:
    """Run two batches of everything."""
    _, trainer = job.fit(fast_dev_run=STEPS)
    assert trainer.global_step == STEPS


def lr_find(job: Job) -> None:
    """Find a learning rate, take it, and train with it."""
    module, trainer = job.module(encoder=True, encoder_lr=0.5), job.trainer(max_epochs=8)
    before = weights(module)
    found = Tuner(trainer).lr_find(module, datamodule=job.data(), num_training=14)
    assert found is not None
    assert len(found.results["lr"]) >= 12
    assert same({name: tensor.to(module.dtype) if tensor.is_floating_point() else tensor
                 for name, tensor in before.items()}, weights(module))  # fmt: skip
    module.lr = 0.25
    trainer.fit(module, job.data())
    head, *encoder = (group["initial_lr"] for group in trainer.optimizers[0].param_groups)
    assert head == 0.25
    assert set(encoder) == {0.125}


def scale_batch_size(job: Job) -> None:
    """Find a batch size and train with it."""
    module, data, trainer = job.module(), job.data(), job.trainer()
    try:
        found = Tuner(trainer).scale_batch_size(module, datamodule=data, init_val=1, max_trials=2, steps_per_trial=1)
    except ValueError as error:  # by Lightning, of several processes
        raise MisconfigurationException(str(error)) from error
    assert found == data.batch_size  # type: ignore[attr-defined]
    trainer.fit(module, data)


def deterministic(job: Job) -> None:
    """Train twice to the same weights."""
    try:
        assert same(*(weights(job.fit(deterministic=True)[0]) for _ in range(2)))
    finally:
        torch.use_deterministic_algorithms(False)


def compiled(job: Job) -> None:
    """Train a module that was compiled; the names of its weights stay."""
    module, trainer = job.module(), job.trainer()
    changes = {}
    if isinstance(module, SegmentationModule):  # an encoder of fifty layers takes minutes
        module = SegmentationModule(CLASSES, net=torch.nn.Conv2d(3, CLASSES, 3, padding=1))
        changes["net"] = torch.nn.Conv2d(3, CLASSES, 3, padding=1)
    trainer.fit(torch.compile(module, backend="eager"), job.data())  # type: ignore[arg-type]
    trainer.save_checkpoint(job.folder / "compiled.ckpt")
    loaded = load_module(type(module), job.folder / "compiled.ckpt", **changes)
    assert same(weights(loaded.to(module.dtype)), weights(module))


def resume(job: Job) -> None:
    """Stop after an epoch, and go on to the weights of a training that was not stopped."""
    whole, _ = job.fit(first := ModelCheckpoint(job.folder, "{epoch}", save_top_k=-1, every_n_epochs=1), max_epochs=2)
    assert first.best_model_path
    module, trainer = job.module(), job.trainer(max_epochs=2)
    trainer.fit(module, job.data(), ckpt_path=job.folder / "epoch=0.ckpt", weights_only=True)
    assert trainer.global_step == 2 * STEPS
    assert same(weights(whole), weights(module))


FEATURES: dict[str, Callable[[Job], None]] = {
    "training and validation": plain,
    "EarlyStopping": early_stopping,
    "ModelCheckpoint(monitor=…)": best_checkpoint,
    "EMAWeightAveraging": ema,
    "StochasticWeightAveraging": swa,
    "BackboneFinetuning that thaws": thaw,
    "LearningRateMonitor": lr_monitor,
    "gradient_clip_val": clipping,
    "accumulate_grad_batches": accumulation,
    "overfit_batches": overfit,
    "limit_train_batches, limit_val_batches": limits,
    "fast_dev_run": fast_dev_run,
    "Tuner.lr_find": lr_find,
    "Tuner.scale_batch_size": scale_batch_size,
    "deterministic": deterministic,
    "torch.compile": compiled,
    "ckpt_path (resume)": resume,
}


def verb(name: str) -> Callable[[Job], None]:
    """Return the feature that runs a verb of the Trainer with a PropagationModule."""

    def run(job: Job) -> None:
        torch.manual_seed(0)
        teacher, refiner = SegmentationModule(CLASSES, SMALL), RefinementModule(CLASSES, RefinerArgs((4, 8)))
        module = PropagationModule(CLASSES, ["motion", "inpaint", "refine"], teacher, refiner)
        data = PropagationData(CLASSES, str(job.root), select=SELECT)
        if name == "predict":
            job.trainer(LabelWriter(str(job.folder / "out"))).predict(module, data, return_predictions=False)
            if job.cell.processes > 1:
                torch.distributed.barrier()
            assert len(list((job.folder / "out" / "labels").rglob("*.png"))) == 9
            return
        [scores] = getattr(job.trainer(), name)(module, data, verbose=False)
        assert 0 < scores[f"{'val' if name == 'validate' else name}/motion/miou"] <= 100

    return run


VERBS = {name: verb(name) for name in ("validate", "test", "predict")}


def product() -> Iterator[Cell]:
    """Yield every combination."""
    for processes in PROCESSES:
        for precision in PRECISIONS:
            yield from (Cell(module, precision, processes, name) for module in MODULES for name in FEATURES)
            yield from (Cell("PropagationModule", precision, processes, name) for name in VERBS)


def pairwise() -> Iterator[Cell]:
    """Yield combinations among which there are any two values of different columns."""
    for number, feature in enumerate(FEATURES):
        for at, precision in enumerate(PRECISIONS):
            processes = PROCESSES[at == number % len(PRECISIONS)]
            yield Cell(MODULES[(number + at + number // 6) % 2], precision, processes, feature)
    for number, name in enumerate(VERBS):
        for at, precision in enumerate(PRECISIONS):
            yield Cell("PropagationModule", precision, PROCESSES[at == number % len(PRECISIONS)], name)


def _agree(module: torch.nn.Module) -> None:
    """Check that all processes hold the same parameters."""
    if not torch.distributed.is_initialized():
        return
    for parameter in module.parameters():
        first = parameter.detach().clone()
        torch.distributed.broadcast(first, 0)
        assert torch.equal(first, parameter.detach()), "the processes hold different weights"


def run_cell(cell: Cell, root: Path, folder: Path) -> str:
    """Run one cell in this process, which may be one of several.

    Returns:
        Empty if all is as it should be, else the line with which it was refused, or what was wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (FEATURES | VERBS)[cell.feature](Job(cell, root, folder))
        except (WrpError, MisconfigurationException) as error:
            return f"refused: {error}"
        except Exception as error:  # every kind is a finding
            line = traceback.extract_tb(error.__traceback__)[-1].line
            return f"failed: {type(error).__name__}: {in_short(error)} ({line})"
    return ""


def run_together(cells: Sequence[Cell], root: Path, folder: Path, processes: int = 2) -> dict[Cell, str]:
    """Run cells one after the other in one group of processes, which is started once.

    Returns:
        What :func:`run_cell` returned in the first process; a cell that was not reached has failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells.json").write_text(json.dumps([asdict(cell) for cell in cells]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        command = [sys.executable, __file__, "--cells", str(folder), str(root)]
        started.append(subprocess.Popen(command, env=environment, cwd=folder))
    for process in started:
        process.wait(timeout=60 * (len(cells) + 2))
    lines = (folder / "0.jsonl").read_text().splitlines() if (folder / "0.jsonl").is_file() else []
    found = dict(zip(cells, map(json.loads, lines), strict=False))
    return {cell: found.get(cell, "failed: the processes have ended before") for cell in cells}


def one_of_several(folder: Path, root: Path) -> None:
    """Run the cells of :func:`run_together` in one of its processes."""
    rank = os.environ["LOCAL_RANK"]
    for number, cell in enumerate(json.loads((folder / "cells.json").read_text())):
        result = run_cell(Cell(**cell), root, folder / str(number))
        with (folder / f"{rank}.jsonl").open("a") as lines:
            lines.write(json.dumps(result) + "\n")


def table(results: dict[Cell, str]) -> str:
    """Return the results as Markdown: a table for each module, and what is refused below it."""
    parts = []
    for module in (*MODULES, "PropagationModule"):
        mine = {cell: result for cell, result in results.items() if cell.module == module}
        columns = list(dict.fromkeys((cell.precision, cell.processes) for cell in mine))
        columns.sort(key=lambda column: (PRECISIONS.index(column[0]), column[1]))
        reasons = list(dict.fromkeys(result for result in mine.values() if result))
        heads = [f"{precision}, {processes}" for precision, processes in columns]
        lines = [f"| {module} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for feature in dict.fromkeys(cell.feature for cell in mine):
            row = (mine[Cell(module, *column, feature)] for column in columns)
            marks = ("yes" if not result else f"no ({reasons.index(result) + 1})" for result in row)
            lines.append(f"| {feature} | " + " | ".join(marks) + " |")
        notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
        parts.append("\n".join(lines) + ("\n\n" + "\n".join(notes) if notes else ""))
    return "\n\n".join(parts)


START, END = "<!-- matrix: python experiments/trainer_matrix.py docs/trainer.md -->", "<!-- end -->"


def make_data(folder: Path) -> Path:
    """Generate the clip that all cells learn from."""
    return generate_folder(folder / "clips", CLASSES, num_frames=9, height=32, width=48)


def main(page: Path) -> None:
    """Run every combination, and replace the tables of a page."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    start, cells, results = time.monotonic(), list(product()), dict[Cell, str]()
    with tempfile.TemporaryDirectory() as name:
        root = make_data(Path(name))
        for processes in PROCESSES:
            results |= run_together([cell for cell in cells if cell.processes == processes], root,
                                    Path(name, str(processes)), processes)  # fmt: skip
    known = versions()
    packages = ("torch", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch", "Python")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread for each process"
    made = f"Made in {(time.monotonic() - start) / 60:.0f} minutes ({device}) with "
    made += ", ".join(f"{package} {known[package]}" for package in packages) + "."
    text = page.read_text(encoding="utf-8")
    before, after = text[: text.index(START)], text[text.index(END) :]
    page.write_text(f"{before}{START}\n{made}\n\n{table(results)}\n\n{after}", encoding="utf-8")
    print(f"{sum(not result for result in results.values())} of {len(results)} work")


if __name__ == "__main__":
    if sys.argv[1] == "--cells":
        one_of_several(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]))
