"""From sparse labels to dense ones: teacher → refiner → propagation → score → report, each step done once."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from wrp.callbacks.writer import LabelWriter, join_manifest, remove_temporaries, written_parts
from wrp.data.clips import ClipIndex, select_clips
from wrp.data.datamodule import VideoDataModule
from wrp.data.datasets import open_index
from wrp.data.datasets.generated import generate_folder
from wrp.data.items import HeldOutItems, IntervalItems
from wrp.data.reading import read_image, read_label
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.modules.base import load_module
from wrp.modules.propagation import PropagationModule, read_calibration
from wrp.modules.segmentation import SegmentationModule
from wrp.pipeline.report import write_report
from wrp.pipeline.scoring import score
from wrp.pipeline.settings import Settings
from wrp.pipeline.training import (
    find_weights,
    plain_trainer,
    quiet_lightning,
    train_refiner,
    train_student,
    train_teacher,
)
from wrp.types import DataError, VideoFrame, WrpError
from wrp.writing import write_json

logger = logging.getLogger("wrp")

PACKAGES = ("wrp", "torch", "torchvision", "pytorch-lightning", "segmentation-models-pytorch", "opencv-python-headless")


CALIBRATION = "calibration.json"


class Stopwatch:
    """Seconds of each step, kept in a file so that a resumed run knows those of the steps it skips."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        self._read()

    def _read(self) -> None:
        if self.path.is_file():
            self.seconds = json.loads(self.path.read_text(encoding="utf-8"))

    def add(self, step: str, seconds: float) -> None:
        """Add to the time of a step, by whichever job."""
        self._read()
        self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 2)
        write_json(self.path, self.seconds)


def autolabel(settings: Settings) -> dict[str, Any] | None:
    """Label every frame of every clip; see the command of this name.

    Args:
        settings: What to do.

    Returns:
        The content of ``metrics.json``; None where a shard or a limit has left intervals to others.

    Raises:
        WrpError: If data, checkpoints or settings are not as they have to be; nothing is written then.
    """
    started = time.perf_counter()
    out = Path(settings.out)
    index = open_index(settings.root, settings.layout, settings.split)
    anchors = Path(settings.anchors) if settings.anchors is not None else None
    index = select_clips(index, settings.clips, settings.label_every, settings.label_offset, anchors)
    check_files(index, settings.needs_teacher)
    data = _data(settings, index)
    check_shard(settings, data, out)
    settings.claim_folder()
    watch = Stopwatch(out / "seconds.json")
    flow = FlowCache(DIS(), settings.flow_cache or str(out / "flow"))
    teacher, refiner = _networks(settings, data, flow, watch, out)
    left = _propagate(settings, data, teacher, refiner, flow, watch, out)
    watch.add("flow", flow.seconds)
    if left:
        watch.add("total", time.perf_counter() - started)
        logger.info("%d intervals are left; run the command again without --limit and --shard to finish", left)
        return None
    own = (out / "flow").resolve()
    if settings.flow_cache is None or Path(settings.flow_cache).resolve() != own:
        shutil.rmtree(own, ignore_errors=True)
    shutil.rmtree(out / "motion", ignore_errors=True)
    student = _student(settings, data, watch, out) if settings.student else {}
    watch.add("total", time.perf_counter() - started)
    metrics: dict[str, Any] = {"schema": 1, "settings": _record(settings, index, out)}
    metrics |= score(index, settings.methods, out) | student
    metrics["seconds"] = {key: 0.0 for key in ("flow", "teacher", "refiner", "propagate", "total")} | watch.seconds
    write_json(out / "metrics.json", metrics)
    write_report(index, metrics, out)
    return metrics


def demo(out: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Autolabel a generated street scene whose truth is known at every frame; see the command of this name."""
    root = generate_folder(out / f"scene-{seed}", seed=seed)
    metrics = autolabel(Settings(root=str(root), out=str(out), label_every=12, seed=seed, **{**DEMO, **changes}))
    assert metrics is not None
    return metrics


# The demo's trainings are sized for two CPU cores and under four minutes all told.
DEMO: dict[str, Any] = {"weights": "none", "teacher_steps": 400, "refiner_steps": 250}


def check_shard(settings: Settings, data: VideoDataModule, out: Path) -> None:
    """Raise WrpError where jobs that share the work would each train networks or calibrate for themselves."""
    needed = {
        "teacher.ckpt": settings.needs_teacher and settings.teacher is None,
        "refiner.ckpt": settings.needs_refiner and settings.refiner is None,
        CALIBRATION: len(HeldOutItems(data.index.clips, data.label_map)) > 0,
    }
    missing = [name for name, needs in needed.items() if needs and not (out / name).is_file()]
    if settings.shard is not None and missing:
        raise WrpError(
            f"--shard {settings.shard} needs {' and '.join(missing)} in {out}: make them first, once, by the same "
            "command with --limit 0 instead of --shard"
        )


def check_files(index: ClipIndex, teacher: bool) -> None:
    """Read every file that will be needed, so that a damaged one stops the run before it begins.

    Raises:
        DataError: On the first file that is unreadable, of another size, or holds unknown ids.
    """
    images = index.images if teacher else ()
    frames = [(None, frame) for frame in images] + [(clip, frame) for clip in index.clips for frame in clip.frames]
    sizes: dict[str, tuple[tuple[int, ...], Path | VideoFrame]] = {}
    for clip, frame in tqdm(frames, desc="Checking files", unit="frame"):
        size = tuple(read_image(frame.image).shape[1:])
        if clip is not None:
            expected, first = sizes.setdefault(clip.name, (size, frame.image))
            if size != expected:
                raise DataError(
                    f"{frame.image} is {size[1]}×{size[0]} pixels, {first} is {expected[1]}×{expected[0]}; all "
                    "frames of a clip must have one size"
                )
        if frame.label is not None:
            read_label(frame.label, index.label_map, (size[0], size[1]))


def _data(settings: Settings, index: ClipIndex) -> VideoDataModule:
    return VideoDataModule(
        num_classes=index.label_map.num_classes,
        root=settings.root,
        layout=index.layout,
        split=settings.split,
        clips=[clip.name for clip in index.clips],
        label_every=settings.label_every,
        label_offset=settings.label_offset,
        anchors=settings.anchors,
        workers=settings.workers,
        seed=settings.seed,
        shard=settings.shard,
    )


def _networks(
    settings: Settings, data: VideoDataModule, flow: FlowCache, watch: Stopwatch, out: Path
) -> tuple[str | None, str | None]:
    """Checkpoints of the networks that the methods need, trained if they are not there."""
    teacher = refiner = None
    if settings.needs_teacher:
        teacher = settings.teacher or str(out / "teacher.ckpt")
        if settings.teacher is None and not Path(teacher).is_file():
            started = time.perf_counter()
            weights, problem = find_weights(settings)
            if problem is not None:
                logger.warning("The teacher starts from scratch: %s", problem)
            write_json(out / "weights.json", {"encoder": weights})
            propagated = label_by_motion(data, flow, out / "motion") if settings.teacher_share else None
            logger.info("Training the teacher on %d labelled frames", len(data.training_frames()))
            train_teacher(settings, data, weights, propagated, Path(teacher))
            watch.add("teacher", time.perf_counter() - started)
    if settings.needs_refiner:
        refiner = settings.refiner or str(out / "refiner.ckpt")
        if settings.refiner is None and not Path(refiner).is_file():
            started = time.perf_counter()
            assert teacher is not None
            folds = _fold_teachers(settings, data, out)
            logger.info("Training the refiner on %d labelled frames", sum(len(c.anchors) for c in data.index.clips))
            train_refiner(settings, data, Path(teacher), folds, flow, Path(refiner))
            watch.add("refiner", time.perf_counter() - started)
    return teacher, refiner


def _student(settings: Settings, data: VideoDataModule, watch: Stopwatch, out: Path) -> dict[str, Any]:
    """Train the student where it is not there, and score it on hidden frames where there are any, by itself."""
    path = out / "student.ckpt"
    if not path.is_file():
        started = time.perf_counter()
        weights, _ = find_weights(settings)
        logger.info("Training the student on all frames")
        train_student(settings, data, weights, out)
        watch.add("student", time.perf_counter() - started)
    if not any(clip.hidden for clip in data.index.clips):
        return {}
    data.serve = "frames"
    with quiet_lightning():
        [scores] = pl.Trainer(**plain_trainer()).test(load_module(SegmentationModule, path), data, verbose=False)
    return {"student": {key: round(100 * scores[f"test/{key}"], 4) for key in ("miou", "ece")}}


def _fold_teachers(settings: Settings, data: VideoDataModule, out: Path) -> list[Path]:
    """Teachers that have each seen all labels but a share, trained where they are not there."""
    folds = settings.teacher_folds
    paths = [out / f"teacher-{number}-of-{folds}.ckpt" for number in range(1, folds + 1)]
    for number, path in enumerate(paths):
        if not path.is_file():
            data.leave_out = (number, folds)
            weights, _ = find_weights(settings)
            logger.info("Training a teacher for the labels of fold %d of %d", number + 1, folds)
            train_teacher(settings, data, weights, None, path)
    data.leave_out = None
    return paths


def label_by_motion(data: VideoDataModule, flow: FlowCache, out: Path) -> Path | None:
    """Label the clips by motion alone, for the teacher to learn from; None where every frame has a label."""
    if all(len(clip.anchors) == len(clip.frames) for clip in data.index.clips):
        return None
    data.serve, data.done, shard = "intervals", written_parts(out), data.shard
    data.shard = (0, 1)
    if _count(data, data.done, data.shard):
        logger.info("Labelling frames by motion for the teacher to learn from")
        with quiet_lightning():
            trainer = pl.Trainer(callbacks=[LabelWriter(str(out))], **plain_trainer())
            trainer.predict(PropagationModule(data.num_classes, flow=flow), data, return_predictions=False)
    join_manifest(out)
    data.done, data.shard = frozenset(), shard
    return out


def _propagate(
    settings: Settings,
    data: VideoDataModule,
    teacher: str | None,
    refiner: str | None,
    flow: FlowCache,
    watch: Stopwatch,
    out: Path,
) -> int:
    """Label the intervals that are not written yet, and return how many are left to others or to another time."""
    data.serve = "intervals"
    data.done = written_parts(out)
    units, left = _count(data, frozenset(), (0, 1)), _count(data, data.done, (0, 1))
    mine = _count(data, data.done, data.shard)
    mine = mine if settings.limit is None else min(mine, settings.limit)
    logger.info("Labelling %d of %d intervals, %d are left", mine, units, left)
    if left:
        started = time.perf_counter()
        module = PropagationModule(
            data.num_classes, settings.methods, teacher, refiner, flow, min_confidence=settings.min_confidence
        )
        with quiet_lightning():
            trainer = pl.Trainer(callbacks=[LabelWriter(str(out))], limit_predict_batches=mine, **plain_trainer())
            calibrate(module.to(trainer.strategy.root_device), data, out / CALIBRATION)
            if mine:
                trainer.predict(module, data, return_predictions=False)
        watch.add("propagate", time.perf_counter() - started)
    join_manifest(out)
    left = _count(data, written_parts(out), (0, 1))
    if left and settings.shard is None and settings.limit is None:
        raise WrpError(f"{out}: the labels of {left} intervals are missing; run it again to resume")
    if not left:
        remove_temporaries(out)
        join_manifest(out)  # once more: another job may have joined what it saw before the last part was there
    return left


def _count(data: VideoDataModule, done: frozenset[tuple[str, int, int]], shard: tuple[int, int]) -> int:
    """Intervals of a share that are not done."""
    return len(IntervalItems(data.index.clips, data.label_map, done=done, shard=shard))


def calibrate(module: PropagationModule, data: VideoDataModule, path: Path) -> None:
    """Calibrate the confidence where a clip has three labels or more, or as a run before has done it."""
    held_out = HeldOutItems(data.index.clips, data.label_map)
    if not path.is_file():
        if not len(held_out):
            logger.info("The confidence is not calibrated: no clip has three labelled frames")
        items = (held_out[i] for i in range(len(held_out)))
        module.calibrate(tqdm(items, desc="Calibrating", unit="label", total=len(held_out), disable=not len(held_out)))
        write_json(path, {method: asdict(line) for method, line in module.calibration.items()})
    module.calibration = read_calibration(str(path))


def _record(settings: Settings, index: ClipIndex, out: Path) -> dict[str, Any]:
    """The settings with everything that was found out at run time."""
    record = settings.as_json()
    record["layout"] = index.layout
    record["clips"] = [clip.name for clip in index.clips]
    used = out / "weights.json"
    record["encoder_weights"] = json.loads(used.read_text(encoding="utf-8"))["encoder"] if used.is_file() else None
    record["versions"] = {package: version(package) for package in PACKAGES}
    return record
