"""Measure labelling, training and two processes on one GPU, within some minutes.

    python experiments/benchmarks/gpu.py
    python experiments/benchmarks/gpu.py --device cpu --size 64 96     to check that it works

All of it goes through the data modules and Lightning's Trainer, over generated clips on the disk with 19 classes. All
networks are untrained: time does not depend on their weights.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import yaml
from clips import CITYSCAPES, CLASSES
from growth import networks
from measuring import Rows, size_name, table
from torch import nn

from wrp import (
    LabelWriter,
    PropagationData,
    PropagationModule,
    RefinementData,
    RefinementModule,
    SegmentationData,
    SegmentationModule,
)
from wrp.data.synthetic.folder import generate_folder, label_map
from wrp.flow.presets import make_flow
from wrp.io.label_map import write_label_map
from wrp.io.writing import write_text
from wrp.options import NetworkArgs, SamplingArgs, SelectArgs
from wrp.refinement.sampler import CycleExamples
from wrp.structures import LabelMap

Result = TypeVar("Result")

NOT_YET = "not yet run on a GPU"
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}
# Crops of teacher.yaml and autolabel.yaml in experiments/cityscapes.
CROPS = {"segmentation": (768, 768), "refinement": (384, 512)}


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    Attributes:
        clips: Number of clips; each is one interval with labels at both ends.
        frames: Frames of each clip.
        ways: How labels are made: flow as in `wrp autolabel --flow`, precision, and number of loader processes.
        steps: Training steps.
        network: The segmentation network that is trained.
    """

    clips: int
    frames: int
    ways: tuple[tuple[str, str, int], ...]
    steps: int
    network: NetworkArgs


ON_GPU = Amount(
    clips=3,
    frames=6,
    ways=(*product(("dis-fast", "raft-small"), PRECISIONS, (4,)), ("raft-small", "bf16", 0)),
    steps=8,
    network=NetworkArgs(encoder_name="tu-convnext_base", ocr=True, attention_scales=[0.5, 1.0]),  # of teacher.yaml
)
# Enough to see that it works.
ON_CPU = Amount(2, 3, (("dis-fast", "32", 0), ("raft-small", "32", 1)), 2, NetworkArgs(encoder_name="tu-regnetx_002"))


class Clock(pl.Callback):
    """Seconds between batches, in which the Trainer waits for data, and in batches.

    It has to stand behind the callbacks whose work counts as that of the batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = 0.0
        self.waited: list[float] = []
        self.worked: list[float] = []

    @property
    def seconds(self) -> float:
        """All of it, with the start of the loader's processes."""
        return sum(self.waited) + sum(self.worked)

    def _lap(self, times: list[float]) -> None:
        wait(self.device)
        now = time.perf_counter()
        times.append(now - self.last)
        self.last = now

    def setup(self, *_: object, **__: object) -> None:
        self.last = time.perf_counter()  # the loader's processes start after this

    def on_train_batch_start(self, *_: object) -> None:
        self._lap(self.waited)

    def on_train_batch_end(self, *_: object) -> None:
        self._lap(self.worked)

    on_predict_batch_start, on_predict_batch_end = on_train_batch_start, on_train_batch_end


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def trainer(device: torch.device, precision: str, callbacks: list[pl.Callback], **flags: Any) -> pl.Trainer:
    """Make a Trainer on one device that is silent and keeps nothing."""
    return pl.Trainer(
        accelerator=device.type,
        devices=1,
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **flags,
    )


def with_peak_memory(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float | None]:
    """Do some work; return its result and the peak of the GPU's memory in MB, None on a CPU."""
    if device.type != "cuda":
        return work(), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return work(), torch.cuda.max_memory_allocated(device) / 2**20


@dataclass(frozen=True)
class Clips:
    """Generated clips on the disk.

    Attributes:
        device: Device to run on.
        size: Height and width of the frames.
        folder: Where to write.
        amount: How much is measured.
    """

    device: torch.device
    size: tuple[int, int]
    folder: Path
    amount: Amount

    def make(self) -> None:
        """Generate the clips; classes that they do not show bring the number up to that of Cityscapes."""
        root = generate_folder(self.folder / "clips", CLASSES, 0, self.amount.frames, *self.size, self.amount.clips)
        shown, unseen = label_map(CLASSES), range(CLASSES, CITYSCAPES)
        names = (*shown.names, *(f"unseen {number}" for number in unseen))
        colors = (*shown.colors, *((number, 0, 1) for number in unseen))
        write_label_map(LabelMap(tuple(range(CITYSCAPES)), names, colors), root / "classes.yaml")

    def over(self, **options: Any) -> dict[str, Any]:
        """Arguments of the data modules: the first and the last label of each clip are its keyframes."""
        select = SelectArgs(label_every=self.amount.frames - 1)
        return {"num_classes": CITYSCAPES, "root": str(self.folder / "clips"), "select": select, **options}


@contextmanager
def clocked(parts: dict[str, nn.Module], device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds of each part, filled within the block, in which each waits for the one before it, in one thread."""
    seconds = dict.fromkeys(parts, 0.0)

    def lap(name: str, sign: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            wait(device)
            seconds[name] += sign * time.perf_counter()

        return hook

    with ExitStack() as stack:
        for module in ("wrp.propagation.warping", "wrp.flow.estimator"):
            stack.enter_context(patch(f"{module}.prefetch", iter))
        for name, part in parts.items():
            stack.callback(part.register_forward_pre_hook(lap(name, -1)).remove)
            stack.callback(part.register_forward_hook(lap(name, 1)).remove)
        yield seconds


def labelling(clips: Clips) -> Rows:
    """Measure `refine` with all that belongs to it: reading, labelling, writing.

    Frames per second are those of a normal run, in which reading, flow and writing overlap with the networks. For the
    percentages, the same is done with one part after the other.
    """
    teacher, refiner = networks(CITYSCAPES)
    rows = []
    for number, (name, precision, workers) in enumerate(clips.amount.ways):
        flow = make_flow(name, {"weights": None, "precision": precision} if name.startswith("raft") else None)
        parts: dict[str, nn.Module] = {"flow": flow, "teacher": teacher, "refiner": refiner}
        work = partial(label, clips, parts, precision, workers)
        work(f"first-{number}")  # finds the fastest kernels
        clock, peak = with_peak_memory(clips.device, partial(work, f"labels-{number}"))
        with clocked(parts, clips.device) as seconds:
            one_by_one = work(f"clocked-{number}")
        seconds["waiting for data"] = sum(one_by_one.waited)
        percentages = {f"{part}, %": 100 * one / one_by_one.seconds for part, one in seconds.items()}
        rows.append(
            {"flow": name, "precision": precision, "workers": workers}
            | {"frames/s": clips.amount.clips * clips.amount.frames / clock.seconds, "peak, MB": peak}
            | percentages
            | {"own code and writing, %": 100 - sum(percentages.values())}
        )
    return rows


def label(clips: Clips, parts: dict[str, Any], precision: str, workers: int, out: str) -> Clock:
    """Label the clips as `wrp predict` does; no flow is kept from one call to the next."""
    module = PropagationModule(CITYSCAPES, ["refine"], **parts)
    clock = Clock(clips.device)
    callbacks = [LabelWriter(str(clips.folder / out)), clock]
    trainer(clips.device, precision, callbacks).predict(module, PropagationData(**clips.over(workers=workers)))
    return clock


def training(clips: Clips) -> Rows:
    """Measure a step of each training, the making of its batch included: the median of the later half of the steps."""
    steps = clips.amount.steps
    segmentation, refinement = ((min(h, clips.size[0]), min(w, clips.size[1])) for h, w in CROPS.values())
    teacher, _ = networks(CITYSCAPES)

    def segmenter() -> tuple[pl.LightningModule, pl.LightningDataModule]:
        sampling = SamplingArgs(segmentation, batch_size=2, epoch_length=2 * steps)
        return SegmentationModule(CITYSCAPES, clips.amount.network), SegmentationData(**clips.over(sampling=sampling))

    def refiner() -> tuple[pl.LightningModule, pl.LightningDataModule]:
        examples = CycleExamples(teacher, flow=make_flow("dis-fast"), crops=4, crop_size=refinement)
        return RefinementModule(CITYSCAPES), RefinementData(**clips.over(examples=examples, epoch_length=steps))

    rows = []
    for make in (segmenter, refiner):
        for precision in PRECISIONS:
            module, data = make()
            clock = Clock(clips.device)
            fit = trainer(clips.device, precision, [clock], max_steps=steps, limit_val_batches=0).fit
            _, peak = with_peak_memory(clips.device, partial(fit, module, data))
            worked, waited = (statistics.median(times[steps // 2 :]) for times in (clock.worked, clock.waited))
            rows.append(
                {"module": type(module).__name__, "precision": precision, "s/step": waited + worked}
                | {"of that waiting for data, s": waited, "peak, MB": peak}
            )
    return rows


def sharing(clips: Clips) -> Rows:
    """Compare `wrp predict` in one process with two, which both use the one GPU, and count equal pictures.

    NCCL refuses two processes on one GPU. So they are started as two nodes of one process each, which talk by Gloo.
    """
    arguments: dict[str, Any] = {"methods": ["refine"]}
    arguments["flow"] = {"class_path": "wrp.flow.raft.RAFT", "init_args": {"weights": None}}
    if clips.device.type == "cpu":  # only to see that it works
        arguments["flow"] = {"class_path": "wrp.flow.dis.DIS", "init_args": {"preset": "ultrafast"}}
    for name, network in zip(("teacher", "refiner"), networks(CITYSCAPES), strict=True):
        arguments[name] = str(clips.folder / f"{name}.ckpt")
        saver = trainer(clips.device, "32", [])
        saver.strategy.connect(network)
        saver.save_checkpoint(arguments[name])
    given = clips.over(select={"label_every": clips.amount.frames - 1})
    config = {
        "model": {"class_path": "PropagationModule", "init_args": arguments},
        "data": {"class_path": "PropagationData", "init_args": given},
        "trainer": {"accelerator": clips.device.type, "devices": 1, "logger": False},
        "return_predictions": False,
    }
    write_text(clips.folder / "predict.yaml", yaml.safe_dump(config))
    gloo = ["--trainer.strategy=DDPStrategy", "--trainer.strategy.process_group_backend=gloo", "--trainer.num_nodes=2"]
    one, two = clips.folder / "one", clips.folder / "two"
    seconds = [predict(clips.folder, one, 1, []), predict(clips.folder, two, 2, gloo)]
    pictures = [path.relative_to(one) for path in one.rglob("*.png")]
    equal = sum((one / picture).read_bytes() == (two / picture).read_bytes() for picture in pictures)
    return [
        {"processes": number, "s with their start": took, "pictures as from one process": f"{same} of {len(pictures)}"}
        for number, took, same in zip((1, 2), seconds, (len(pictures), equal), strict=True)
    ]


def predict(folder: Path, out: Path, nodes: int, flags: list[str]) -> float:
    """Run `wrp predict` as so many nodes on this machine, and return the seconds until all are done."""
    command = [sys.executable, "-m", "wrp", "predict", f"--config={folder / 'predict.yaml'}", *flags]
    command += ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={out}"]
    with socket.socket() as server:  # finds a free port
        server.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    logs = [out.with_name(f"{out.name}-{node}.log") for node in range(nodes)]
    started = time.perf_counter()
    jobs = []
    for node, path in enumerate(logs):
        with path.open("w") as log:
            environment = {**os.environ, **place, "NODE_RANK": str(node)}
            jobs.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log))
    codes = [job.wait() for job in jobs]
    seconds = time.perf_counter() - started
    for code, path in zip(codes, logs, strict=True):
        if code:
            raise RuntimeError(f"`wrp predict` ended with exit code {code}:\n{path.read_text()[-2000:]}")
    return seconds


def tables(device: torch.device, size: tuple[int, int], folder: Path) -> dict[str, Rows]:
    """Measure everything; on a CPU only a little, to see that it works.

    Args:
        device: Device to run on.
        size: Height and width of the frames.
        folder: Where to write.

    Returns:
        The rows of each table by its title, which says of a CPU that nothing was measured on a GPU.
    """
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else f"a CPU, {NOT_YET}"
    clips = Clips(device, size, folder, ON_GPU if on_gpu else ON_CPU)
    clips.make()
    return {
        f"`refine` of {size_name(size)} on {where}": labelling(clips),
        f"Training steps on {where}": training(clips),
        f"One and two processes on {where}": sharing(clips),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the frames")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"there is no GPU here ({NOT_YET}); --device cpu with a small --size shows that it works")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    with tempfile.TemporaryDirectory(prefix="wrp-gpu-") as folder:
        for title, rows in tables(options.device, tuple(options.size), Path(folder)).items():
            print(f"## {title}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
