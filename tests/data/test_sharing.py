"""Loaders that leave their data module share its items out among processes, by whatever launcher these are started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.clips import make_folder, make_images
from tests.data.small import images, intervals, make_run, sample, single, windows
from tests.forked import Forked
from wrp import PropagationData, RefinementData, SemiSupervisedData
from wrp.data.loaders import BaseDataModule
from wrp.data.propagated import PropagatedLabels
from wrp.errors import DataError
from wrp.options import ValArgs
from wrp.structures import ClipBatch

CHECKOUT = Path(__file__).parents[2]

Seen = dict[str, list[list[str]]]
"""What a process was served by each loader in each epoch."""

# The loaders are made before any process knows of another one.
LOADERS = """
import json, sys
from pathlib import Path

import torch

from tests.data.small import intervals, make_run, sample, single, windows
from wrp.data.propagated import PropagatedLabels
from wrp.structures import ClipBatch

root = sys.argv[1]
TRAIN = {
    "frames": single(root, sample(epoch_length=24), select=None).train_dataloader(),
    "windows": windows(root, select=None).train_dataloader(),
}
OTHERS = {
    "scored frames": single(root).val_dataloader(),
    "scored windows": windows(root).val_dataloader(),
    "scored intervals": intervals(root).test_dataloader(),
    "all frames": single(root).predict_dataloader(),
    "intervals": intervals(root).predict_dataloader(),
}


def names(batch):
    if isinstance(batch, ClipBatch):
        return [f"{batch.clip}/{batch.queries[0]}"]
    return [f"{clip}/{index}" for clip, index in zip(batch.clips, batch.indices)]


def write(rank, seen):
    Path(f"{rank}.json").write_text(json.dumps(seen))

"""

FABRIC = """
from lightning_fabric import Fabric

loaders = TRAIN | OTHERS
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
assert torch.distributed.get_backend() == "gloo"
ready = fabric.setup_dataloaders(*loaders.values())
epochs = {name: [[n for b in loader for n in names(b)] for _ in range(2)] for name, loader in zip(loaders, ready)}
write(fabric.global_rank, epochs)
"""

BY_HAND = """
torch.distributed.init_process_group("gloo")
rank, seen = torch.distributed.get_rank(), {}
for name, loader in (TRAIN | OTHERS).items():
    seen[name] = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        seen[name].append([n for batch in loader for n in names(batch)])
write(rank, seen)
"""

TRAINER = """
import pytorch_lightning as pl


class Watching(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {}

    def note(self, name, batch):
        if isinstance(batch, dict):
            for part, its in batch.items():
                self.note(part, its)
            return
        self.seen.setdefault(name, [[], []])[self.current_epoch] += names(batch)

    def training_step(self, batch):
        self.note("train", batch)
        return self.weight.sum()

    def validation_step(self, batch):
        self.note("val", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(train, val=None):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, num_sanity_val_steps=0, **quiet)
    module = Watching()
    trainer.fit(module, train, val)
    assert torch.distributed.get_backend() == "gloo"
    return trainer.global_rank, module.seen


apart = single(root, sample(batch_size=4, epoch_length=24), propagated=PropagatedLabels("run", apart=True))
rank, seen = fit(TRAIN["frames"], OTHERS["scored frames"])
_, windows_seen = fit(TRAIN["windows"], OTHERS["scored windows"])
_, apart_seen = fit(apart.train_dataloader())
found = {"frames": seen["train"], "scored frames": seen["val"]}
found |= {"windows": windows_seen["train"], "scored windows": windows_seen["val"]}
write(rank, found | apart_seen)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve labelled frames, of which four are keyframes if every fourth of a clip is."""
    make_run(tmp_path / "run")
    return make_folder(tmp_path / "clips", {"run": 3, "walk": 9})


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run(folder: Path, script: str, root: Path) -> None:
    """Run a script that starts the second process itself."""
    (folder / "script.py").write_text(LOADERS + script)
    command = [sys.executable, "script.py", str(root)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def seen_by_two(folder: Path) -> tuple[Seen, Seen]:
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    assert first.keys() == second.keys()
    return first, second


def check_shares(first: Seen, second: Seen, name: str, items: list[str], times: int = 1) -> None:
    """Each item comes so often in an epoch, in one process or the other; the processes have as many of them."""
    assert len(first[name]) == len(second[name]) == 2
    for mine, theirs in zip(first[name], second[name], strict=True):
        assert sorted(mine + theirs) == sorted(items * times)
        assert 0 < len(mine) <= len(theirs) + 1
        assert 0 < len(theirs) <= len(mine) + 1
        if times == 1:
            assert not set(mine) & set(theirs)


LABELLED = [f"run/{i}" for i in range(3)] + [f"walk/{i}" for i in range(9)]
KEYFRAMES = ["run/0", "walk/0", "walk/4", "walk/8"]
HELD_BACK = [name for name in LABELLED if name not in KEYFRAMES]
INTERVALS = ["run/0", "walk/0", "walk/4"]


def check_training(first: Seen, second: Seen, name: str, times: int) -> None:
    check_shares(first, second, name, LABELLED, times)
    for of_one in (first, second):
        assert of_one[name][0] != of_one[name][1]  # each epoch has an order of its own


def check_all(first: Seen, second: Seen) -> None:
    check_training(first, second, "frames", times=2)
    check_training(first, second, "windows", times=1)
    check_shares(first, second, "scored frames", HELD_BACK)
    check_shares(first, second, "scored windows", HELD_BACK)
    check_shares(first, second, "scored intervals", INTERVALS)
    check_shares(first, second, "all frames", LABELLED)
    check_shares(first, second, "intervals", INTERVALS)


@pytest.mark.slow
def test_two_processes_of_fabric_share_each_epoch(root: Path, tmp_path: Path) -> None:
    run(tmp_path, FABRIC, root)
    check_all(*seen_by_two(tmp_path))


@pytest.mark.slow
def test_two_processes_that_nobody_has_started_for_lightning_share_each_epoch(root: Path, tmp_path: Path) -> None:
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    script = f"{LOADERS}{BY_HAND}sys.exit()"
    processes = [
        Forked([str(root)], script, tmp_path, PYTHONPATH=str(CHECKOUT), RANK=str(rank), **port) for rank in range(2)
    ]
    for done in [process.wait() for process in processes]:
        assert done.returncode == 0, done.stderr
    check_all(*seen_by_two(tmp_path))


@pytest.mark.slow
def test_two_processes_of_a_trainer_that_gets_loaders_alone_share_each_epoch(root: Path, tmp_path: Path) -> None:
    run(tmp_path, TRAINER, root)
    first, second = seen_by_two(tmp_path)
    check_training(first, second, "frames", times=2)
    check_training(first, second, "windows", times=1)
    check_shares(first, second, "scored frames", HELD_BACK)
    check_shares(first, second, "scored windows", HELD_BACK)
    check_shares(first, second, "labelled", KEYFRAMES, times=3)
    check_shares(first, second, "unlabelled", [f"walk/{i}" for i in (1, 2, 3, 5, 6, 7)], times=2)


def semi(root: Path, tmp_path: Path) -> SemiSupervisedData:
    """Two labelled images, one without a label and one to validate on."""
    make_images(tmp_path / "images", {"train": 3, "val": 2})
    lists = {"labelled": ("train/view0", "train/view1"), "unlabelled": ("train/view2",), "val": ("val/view0",)}
    for name, lines in lists.items():
        (tmp_path / name).write_text("\n".join(lines))
    paths = {name: str(tmp_path / name) for name in lists}
    return SemiSupervisedData(3, str(tmp_path / "images"), **paths, sampling=sample())


MODULES: dict[str, Callable[[Path, Path], BaseDataModule]] = {
    "frames": lambda root, _: single(root, sample(class_uniform=0.5, unlabelled=0.2)),
    "propagated": lambda root, folder: single(root, propagated=PropagatedLabels(str(folder / "run"))),
    "ratio": lambda root, _: single(root, select=None, val=ValArgs(ratio=0.3)),
    "windows": lambda root, _: windows(root),
    "intervals": lambda root, folder: intervals(root, done=str(folder / "run"), shard="1/2"),
    "images": lambda _, folder: images(make_images(folder / "images", {"train": 3, "val": 2})),
    "semi-supervised": semi,
}


LACKING: dict[type, tuple[str, ...]] = {PropagationData: ("train",), RefinementData: ("test",)}
"""What there is no use for."""


def named(batch: Any) -> list[str]:
    """The names of the frames of a batch, or of its parts."""
    if isinstance(batch, tuple):  # of a CombinedLoader
        return named(batch[0])
    if isinstance(batch, dict):
        return [name for part in batch.values() for name in named(part)]
    return [batch.clip, *batch.stems] if isinstance(batch, ClipBatch) else [*batch.clips, *batch.stems]


def use(module: BaseDataModule) -> dict[str, list[list[str]]]:
    """Do all that is done with a data module, and say what it served."""
    module.prepare_data()
    served = {}
    for stage, verb in {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}.items():
        module.setup(stage)
        take = getattr(module, f"{verb}_dataloader")
        if verb in LACKING.get(type(module), ()):
            with pytest.raises(DataError, match="serves nothing to"):
                take()
        else:
            served[verb] = [named(batch) for batch in take()]
        module.teardown(stage)
    assert module.reads
    assert module.labels_seen
    return served


def check_unchanged(module: BaseDataModule, before: dict[str, Any], copies: dict[str, Any]) -> None:
    for name, value in before.items():
        assert vars(module)[name] is value, name
        assert vars(module)[name] == copies[name], name


@pytest.mark.parametrize("kind", MODULES)
def test_data_modules_are_not_changed_by_use(kind: str, root: Path, tmp_path: Path) -> None:
    module = MODULES[kind](root, tmp_path)
    before = dict(vars(module))
    copies = deepcopy(before)
    served = use(module)
    assert len(served) >= 2
    check_unchanged(module, before, copies)
    cached = {n for kind in type(module).__mro__ for n, its in vars(kind).items() if isinstance(its, cached_property)}
    assert vars(module).keys() - before.keys() <= cached
    then = dict(vars(module))
    assert use(module) == served
    assert vars(module).keys() == then.keys()
    check_unchanged(module, then, {**then, **copies})
