"""Train the networks of an autolabel run: teacher, refiner and student."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.data.index import ClipIndex
from wrp.data.propagated import PropagatedLabels
from wrp.data.refinement import RefinementData
from wrp.data.segmentation import SegmentationData
from wrp.errors import WrpError
from wrp.io.checkpoints import load_module, read_checkpoint
from wrp.io.networks import UNFINISHED
from wrp.io.outputs import TEMPORARY
from wrp.io.pixels import read_size
from wrp.options import KeepArgs, OptimizerArgs, SamplingArgs
from wrp.refinement.module import RefinementModule
from wrp.refinement.sampler import CycleExamples
from wrp.runs.config import AUTO, Recipe, Settings, TeacherArgs
from wrp.runs.job import Job
from wrp.runs.processes import Processes
from wrp.runs.trainer import quiet_lightning
from wrp.segmentation.losses import SegmentationLoss
from wrp.segmentation.module import SegmentationModule
from wrp.segmentation.network import create_segmenter
from wrp.segmentation.weights import IMAGENET, installed_package
from wrp.selftraining.st_plus_plus import checkpoint_epochs

logger = logging.getLogger("wrp")

WEIGHTS_TIMEOUT = 10.0  # seconds

# Disk space that the examples of the refiner may take, in bytes: the cycles over 50 frames of 480×360 take 76 MB.
EXAMPLE_BYTES = 2**35

# Sides of what a network is given are multiples of this one, in pixels.
STRIDE = 32

# Seconds between the checkpoints of an unfinished training; writing one takes well under a second.
SAVE_EVERY = 60.0

# Ratio of its learning rate at which a network that has learned already is trained on: it shall not forget.
ON_RATE = 0.1

# Steps after which several processes agree on whether to write one: agreeing makes them wait for each other.
AGREE_EVERY = 10


def train_teacher(
    job: Job,
    weights: str | None,
    propagated: Path | None,
    path: Path,
    leave_out: str | None = None,
) -> None:
    """Train the teacher on all labelled frames, and save it.

    Args:
        job: The run.
        weights: Encoder weights to start from; None: from scratch.
        propagated: Folder with labels propagated by motion, to train on as well; None: no such labels.
        path: The checkpoint.
        leave_out: Part of the labels to leave out, ``i/n``; None: no part.
    """
    args = job.settings.train_teacher
    labels = None
    if propagated is not None:
        labels = PropagatedLabels(str(propagated), args.propagated_ratio, args.confidence, weighted=False)
    start = None if leave_out is not None else earlier(job.settings, path)
    train_segmenter(job, weights, labels, path, leave_out=leave_out, start=start)


def earlier(settings: Settings, network: Path) -> Path | None:
    """Return the checkpoint that a network is trained on from: that of the run which is continued; None: there is none.

    Example:
        >>> earlier(Settings("clips", "out"), Path("out/teacher.ckpt")) is None
        True
    """
    return Path(settings.run.continue_from, network.name) if settings.run.continue_from is not None else None


def train_segmenter(
    job: Job,
    weights: str | None,
    propagated: PropagatedLabels | None,
    path: Path,
    kind: type[SegmentationModule] = SegmentationModule,
    epochs: int = 1,
    thirds: bool = False,
    leave_out: str | None = None,
    start: Path | None = None,
) -> None:
    """Train a network like the teacher on labelled frames, and on propagated labels if given, and save it.

    Args:
        job: The run; the settings of the teacher are used.
        weights: Encoder weights to start from; None: from scratch.
        propagated: Propagated labels to train on; None: no such labels.
        path: The checkpoint.
        kind: Class of the module.
        epochs: Epochs into which the steps are divided.
        thirds: Whether to keep checkpoints after one and two thirds of the steps as well, see :func:`thirds_of`.
        leave_out: Part of the labels to leave out, ``i/n``; None: no part.
        start: Checkpoint of such a network to train on, for ``continue_steps`` steps; None: a new one is trained.
    """
    settings, run = job.settings, job.settings.run
    args = settings.train_teacher
    recipe = fitted(args.recipe(weights is not None), job.index)
    pl.seed_everything(run.seed, verbose=False)
    batch = job.processes.divide(args.batch, "train_teacher.batch")
    steps = recipe.steps if start is None else run.continue_steps or 0
    sampling = SamplingArgs(recipe.crop, batch, steps * args.batch // epochs, seed=run.seed)
    data = SegmentationData.over(
        job.index,
        sampling=sampling,
        propagated=propagated,
        leave_out=leave_out,
        workers=job.processes.loaders(run.workers),
    )
    if start is None:
        module = make_segmenter(args, recipe, data.num_classes, weights, kind)
    else:
        rate, loss = OptimizerArgs(lr=ON_RATE * recipe.lr), SegmentationLoss(args.losses)
        module = load_module(kind, start, optimizer=rate, loss=loss).train()
    fit(module, data, steps, path, thirds, job.processes, job.check_labels)


def make_segmenter(
    args: TeacherArgs,
    recipe: Recipe,
    num_classes: int,
    weights: str | None,
    kind: type[SegmentationModule] = SegmentationModule,
) -> SegmentationModule:
    """Make a network like the teacher, untrained except for its encoder weights."""
    # By name, as Lightning finds the arguments of subclasses to save them.
    return kind(
        num_classes=num_classes,
        network=replace(recipe.network, encoder_weights=weights),
        optimizer=OptimizerArgs(lr=recipe.lr),
        loss=SegmentationLoss(args.losses),
        inference=args.inference,
    )


def train_refiner(job: Job, teacher: Path, folds: list[Path], path: Path) -> None:
    """Train the refiner on the keyframes, and save it.

    Args:
        job: The run.
        teacher: Checkpoint of the teacher.
        folds: Checkpoints of teachers that were each trained without one part of the labels; may be empty.
        path: The checkpoint of the refiner.
    """
    args, run = job.settings.train_refiner, job.settings.run
    pl.seed_everything(run.seed + 1, verbose=False)
    room = job.processes.first(lambda: min(EXAMPLE_BYTES, shutil.disk_usage(job.out).free // 2))
    examples = CycleExamples(
        str(teacher),
        [str(fold) for fold in folds],
        job.flow,
        crops=job.processes.divide(args.batch, "train_refiner.batch"),
        crop_size=args.crop,
        keep=KeepArgs(str(job.out / TEMPORARY / "examples"), room),
    )
    examples.broken = job.skip
    start = earlier(job.settings, path)
    steps = args.steps if start is None else run.continue_steps or 0
    data = RefinementData.over(
        job.index, examples=examples, epoch_length=steps, seed=run.seed, workers=job.processes.loaders(run.workers)
    )
    module = RefinementModule(data.num_classes)
    if start is not None:
        rate = replace(module.optimizer, lr=ON_RATE * module.lr)
        module = load_module(RefinementModule, start, optimizer=rate).train()
    fit(module, data, steps, path, processes=job.processes, check=job.check_labels)


def fit(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    steps: int,
    path: Path,
    thirds: bool = False,
    processes: Processes | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train for a number of steps and save a checkpoint, which is written completely or not at all.

    A training that was stopped resumes from its state of at most a minute before, and ends at the same weights.

    Args:
        module: The module.
        data: Its training data.
        steps: Training steps.
        path: The checkpoint; its name is that of the stage in the logs.
        thirds: Whether to keep checkpoints after one and two thirds of the steps as well, see :func:`thirds_of`.
        processes: The processes of the run; None: this one alone.
        check: Raises an error if what the network has learned from has changed; called before anything is saved.
    """
    processes = processes if processes is not None else Processes()
    unfinished = path.with_name(f"{path.stem}{UNFINISHED}{path.suffix}")
    resumes = processes.first(lambda: _readable(unfinished))
    # Thirds first: a training that is resumed after a step then has the third saved at that step.
    callbacks = [*([_Thirds(path, steps)] if thirds else []), _Unfinished(unfinished, partial(processes.first, check))]
    with quiet_lightning():
        limits = {"max_steps": steps, "num_sanity_val_steps": 0, "limit_val_batches": 0}
        trainer = processes.trainer(*callbacks, stage=path.stem, shown=f"Training {path.stem}", **limits)
        trainer.fit(module, data, ckpt_path=unfinished if resumes else None, weights_only=True)
        processes.first(check)
        trainer.save_checkpoint(path)
    if processes.is_first:
        unfinished.unlink(missing_ok=True)
    processes.barrier()


def _readable(unfinished: Path) -> bool:
    """Tell whether a training can resume from a file, and log it."""
    if not unfinished.is_file():
        return False
    try:
        step = read_checkpoint(unfinished, mmap=True)["global_step"]
    except (WrpError, KeyError) as error:
        logger.warning("%s; the training starts again", error)
        return False
    logger.info("Resuming from %s, step %d", unfinished, step)
    return True


class _Unfinished(pl.Callback):
    """Save the state of a training about once a minute, if nothing has changed that it learns from."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        self.path = path
        self.check = check
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a minute has passed since the last time, and this batch was the last one of a step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return  # a checkpoint does not hold the gradients that have been added up
        if trainer.world_size > 1 and trainer.global_step % AGREE_EVERY:
            return
        # All processes save, or none: the clock of the first one decides.
        if trainer.strategy.broadcast(time.monotonic() - self.saved >= SAVE_EVERY):
            self.check()
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


def thirds_of(network: Path) -> tuple[Path, Path]:
    """Return the checkpoints of a network after one and two thirds of its training.

    Example:
        >>> [path.name for path in thirds_of(Path("out/ranker.ckpt"))]
        ['ranker-1.ckpt', 'ranker-2.ckpt']
    """
    first, second = (network.with_name(f"{network.stem}-{number}{network.suffix}") for number in (1, 2))
    return first, second


class _Thirds(pl.Callback):
    """Save a network after one and two thirds of its steps."""

    def __init__(self, network: Path, steps: int) -> None:
        self.paths = dict(zip(checkpoint_epochs(steps)[:2], thirds_of(network), strict=True))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save if a third of the steps ends here."""
        if path := self.paths.get(trainer.global_step):
            trainer.save_checkpoint(path)


def fitted(recipe: Recipe, index: ClipIndex) -> Recipe:
    """Return a recipe whose crops are no larger than the frames need: there, they would be filled up with nothing.

    Args:
        recipe: The recipe.
        index: The clips. The sides of their largest frame are rounded up to a multiple of 32 pixels, as networks do.

    Raises:
        DataError: If the first frame of a clip cannot be read.
    """
    sizes = [read_size(clip.frames[0].image) for clip in index.clips]
    sizes += [read_size(frame.image) for frame in index.images[:1]]
    sides = (max(size[axis] for size in sizes) for axis in (0, 1))
    height, width = (min(crop, -(-side // STRIDE) * STRIDE) for crop, side in zip(recipe.crop, sides, strict=True))
    return replace(recipe, crop=(height, width))


def foreseen(args: TeacherArgs) -> Recipe:
    """Return the recipe that a run will use, unless it finds weights at a hub: none is asked.

    Example:
        >>> foreseen(TeacherArgs(weights="none")).steps
        2000
    """
    return args.recipe(_weights_without_hub(args) is not None)


def _weights_without_hub(args: TeacherArgs) -> str | None:
    """Return the encoder weights that are asked for by name or installed; None: from scratch, or a hub decides."""
    if args.weights == AUTO:
        encoder = args.recipe(pretrained=True).network.encoder_name
        return IMAGENET if installed_package(encoder) is not None else None
    return None if args.weights == "none" else args.weights


def find_weights(settings: Settings) -> tuple[str | None, str | None]:
    """Return the encoder weights to start from, and the reason why ``auto`` could not get those of ImageNet.

    With ``auto``, the network starts from scratch if the weights are in no installed package and cannot be downloaded
    within 10 seconds.

    Returns:
        Name of the weights, None for scratch; and the reason, None if there was no problem.
    """
    args = settings.train_teacher
    weights = _weights_without_hub(args)
    if weights is not None or args.weights != AUTO:
        return weights, None
    network = args.recipe(pretrained=True).network
    problem: list[str] = [f"no answer within {WEIGHTS_TIMEOUT:.0f} seconds"]

    def download() -> None:
        try:
            create_segmenter(2, replace(network, encoder_weights=IMAGENET))
            problem.clear()
        except WrpError as error:
            problem[:] = [str(error)]

    # In a thread that is not waited for any longer: the download's own time-outs and retries take minutes.
    noisy = logging.getLogger("huggingface_hub")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(WEIGHTS_TIMEOUT)
    if not thread.is_alive():  # else its warnings would still appear
        noisy.setLevel(level)
    return (None, problem[0]) if problem else (IMAGENET, None)
