"""Compare a training step of SegmentationModule under Lightning's Trainer with a plain torch loop, in one run.

    python experiments/benchmarks/step.py

Both use the same network, batches, loss and optimizer. Runs take turns, and the median over all steps counts: whatever
else the machine does affects single steps only.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from importlib.metadata import version

import pytorch_lightning as pl
import torch
from measuring import Rows, table
from torch.utils.data import DataLoader

from wrp import SegmentationModule
from wrp.geometry.consistency import to_unit
from wrp.geometry.labels import resize_labels
from wrp.options import NetworkArgs, OptimizerArgs
from wrp.runs.config import SLIM_FPN
from wrp.runs.processes import Processes
from wrp.runs.trainer import quiet_lightning
from wrp.segmentation.losses import SegmentationLoss
from wrp.structures import FrameBatch

LOSSES = {"cross_entropy": 1.0, "dice": 1.0}


def make_batches(steps: int, height: int, width: int) -> list[FrameBatch]:
    """Make batches of four crops each: images of noise, labels of blocks."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(steps):
        images = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8, generator=generator)
        blocks = torch.randint(0, 11, (4, height // 16, width // 16), dtype=torch.uint8, generator=generator)
        labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
        batches.append(FrameBatch(images, labels, [""] * 4, [""] * 4, [0] * 4))
    return batches


def make_module() -> SegmentationModule:
    """Make the teacher of `wrp autolabel`."""
    pl.seed_everything(0, verbose=False)
    network = NetworkArgs("FPN", "tu-regnetx_002", options=dict(SLIM_FPN))
    return SegmentationModule(11, network, OptimizerArgs(lr=5e-3), loss=SegmentationLoss(LOSSES))


def with_trainer(batches: list[FrameBatch]) -> list[float]:
    """Seconds of each step under the Trainer, without the first."""
    module, times = make_module(), []

    class Clock(pl.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            times.append(time.perf_counter())

    with quiet_lightning():
        trainer = Processes().trainer(Clock(), enable_progress_bar=False, max_epochs=1)
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return [later - earlier for earlier, later in itertools.pairwise(times[1:])]


def plain(batches: list[FrameBatch]) -> list[float]:
    """Seconds of the same steps in a loop."""
    net = make_module().net.train()
    criterion = SegmentationLoss(LOSSES)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=1e-2)
    times = []
    for number, batch in enumerate(batches):
        times.append(time.perf_counter())
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - number / len(batches)) ** 0.9
        logits = net(to_unit(batch.images))
        labels = resize_labels(batch.labels, (logits.shape[-2], logits.shape[-1]))
        loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [later - earlier for earlier, later in itertools.pairwise(times[1:])]


def measure(steps: int, repeats: int, size: tuple[int, int]) -> Rows:
    """Measure both, and their ratio.

    Args:
        steps: Steps per run.
        repeats: Number of runs.
        size: Height and width of the crops.
    """
    batches = make_batches(steps, *size)
    pairs = [(with_trainer(batches), plain(batches)) for _ in range(repeats)]
    ours, theirs = (1000 * statistics.median(itertools.chain.from_iterable(runs)) for runs in zip(*pairs, strict=True))
    return [
        {"": "SegmentationModule", "ms a step": ours, "ratio": ours / theirs},
        {"": "plain loop", "ms a step": theirs, "ratio": 1.0},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=[192, 288], help="height and width of the crops")
    options = parser.parse_args()
    print(table(measure(options.steps, options.repeats, options.size)))
    packages = "; ".join(f"{package} {version(package)}" for package in ("torch", "pytorch-lightning"))
    print(f"\n{torch.get_num_threads()} threads; Python {platform.python_version()}; {packages}")


if __name__ == "__main__":
    main()
