"""Describe what a run of autolabel will do, and estimate how long it takes on this machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from wrp.data.index import ClipIndex, intervals
from wrp.data.items import STRETCH_BYTES, HeldOutItems, WindowItems
from wrp.data.refinement import LEAST_EXAMPLES
from wrp.flow.cache import MAX_BYTES
from wrp.flow.presets import make_flow
from wrp.io.images import read_frame_label, read_image
from wrp.io.manifest import written_parts
from wrp.io.pixels import read_size
from wrp.propagation.warping import STACK_BYTES
from wrp.refinement.module import teacher_probabilities
from wrp.refinement.network import CUES, Refiner, refined
from wrp.report.page import CLIPS, encode_pictures, most_shown
from wrp.runs.calibrating import CALIBRATION, count_file, has_told
from wrp.runs.config import Settings
from wrp.runs.networks import needs
from wrp.runs.students import student_path
from wrp.runs.training import EXAMPLE_BYTES, fitted, foreseen, make_segmenter
from wrp.segmentation.module import load_segmenter
from wrp.structures import Clip, RefinerInput

logger = logging.getLogger("wrp")

# Compressed label, confidence and provenance of a frame, and its label by another method, in bytes per pixel: measured
# on CamVid (480×360, 11 classes).
FILE_BYTES = 0.25
METHOD_BYTES = 0.034

# Memory of a process with its libraries, in bytes, and what training networks adds to it; and, of the frame in work, in
# bytes per pixel and in maps of all classes, what motion, the teacher and the refiner take. Measured with a generated
# clip at 2048×1024 (7.9 GB), CamVid (1.9 GB) and a clip at 160×120 (0.9 GB), on a CPU.
BASE_BYTES = 9 * 10**8
TRAINING_BYTES = 6 * 10**8
FRAME_BYTES = {"motion": (600, 3), "teacher": (0, 4), "refiner": (1300, 15)}

# Calls that are timed, after one that is not: the first call also pays for caches and set-up.
TIMED_STEPS = 3


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: Its name.
        what: What is done, in words.
        work: How often each kind of cost of :class:`Costs` arises, by its name.
        disk: Bytes that it writes to the disk, at most.

    Example:
        >>> Step("flow", "dis-best between 100 pairs of neighbouring frames", {"flow": 200.0}).work
        {'flow': 200.0}
    """

    name: str
    what: str
    work: dict[str, float]
    disk: int = 0


def plan(
    settings: Settings,
    index: ClipIndex,
    taken: frozenset[tuple[str, int, int]] = frozenset(),
    counted: frozenset[tuple[str, int]] = frozenset(),
) -> list[Step]:
    """Return the steps of a run; those that are done, or are replaced by a given network, have no work left.

    Args:
        settings: The settings of the run.
        index: The clips.
        taken: Clip, first frame and number of frames of each interval that will be taken over from another run.
        counted: Clip and index of each keyframe whose counts for the calibration will be.
    """
    out, clips, pixels = Path(settings.out), index.clips, _pixels(index)
    pairs = sum(len(clip.frames) - 1 for clip in clips)
    labelled = len(index.training_frames)
    refiner = settings.refiner or _done(out / "refiner.ckpt") or _taken(settings)
    onward = settings.run.continue_steps
    steps = []
    if needs(settings).teacher:
        teacher = settings.teacher or _done(out / "teacher.ckpt") or _taken(settings)
        steps.append(_network("teacher", settings, index, labelled, teacher, onward))
    if needs(settings).refiner:
        for fold in range(settings.train_teacher.folds if refiner is None else 0):
            steps.append(_network(f"teacher of fold {fold + 1}", settings, index, labelled, None))
        steps.append(_refiner(settings, index, refiner, pixels))
    done = written_parts(out) | taken
    left = [i for clip in clips for i in intervals(clip) if (clip.name, i.start, i.stop - i.start) not in done]
    queries = sum(i.stop - i.start for i in left)
    # Direct flow to each keyframe, and one forward pass of each network.
    direct = sum(len(i.keyframes) * (i.stop - i.start) for i in left)
    held_out, found = _calibration(settings, index, counted)
    steps += [held_out] if held_out is not None else []
    work = {"flow": float(max(0, direct - found))}
    work |= {"teacher": float(queries)} if needs(settings).teacher else {}
    work |= {"refine": float(queries)} if needs(settings).refiner else {}
    methods = ", ".join(settings.methods)
    files = round(queries * pixels * (FILE_BYTES + METHOD_BYTES * (len(settings.methods) - 1)))
    steps.append(Step("propagate", f"{queries} frames in {len(left)} intervals, by {methods}", work, files))
    if settings.student is not None:
        frames = labelled + sum(len(clip.frames) - len(clip.keyframes) for clip in clips)
        student = _done(student_path(settings))
        steps.append(_network(f"student ({settings.student})", settings, index, frames, student))
    shown = most_shown(len(clips))
    pictures = sum(sorted((min(len(clip.frames), shown) for clip in clips), reverse=True)[:CLIPS])
    steps.append(Step("report", f"pictures of {pictures} frames", {"picture": float(pictures)}))
    # Both flows of a pair in half precision, one direct flow in full.
    direct += round(sum(step.work.get("flow", 0.0) for step in steps if step.name == "refiner"))
    what = f"{settings.run.flow} between {pairs} pairs of neighbouring frames"
    return [Step("flow", what, {"flow": 2.0 * pairs}, min(MAX_BYTES, 8 * pixels * (pairs + direct))), *steps]


def _calibration(settings: Settings, index: ClipIndex, counted: frozenset[tuple[str, int]]) -> tuple[Step | None, int]:
    """Return the step that labels each keyframe between two others once more, if any are left.

    Returns:
        The step, and how many of its flows labelling will find in the cache.
    """
    out, needed = Path(settings.out), needs(settings)
    if (out / CALIBRATION).is_file() and has_told(out):
        return None, 0
    flows, found, labelled, keyframes = 0, 0, 0, 0
    for clip, at in HeldOutItems(index.clips, index.label_map).held_out:
        before, target, after = clip.keyframes[at - 1 : at + 2]
        if (clip.name, target) in counted or count_file(out, clip.name, target).is_file():
            continue
        first = max(before + 1, target - needed.neighbours)
        last = min(after - 1, target + needed.neighbours)
        keyframes += 1
        flows += last - before + after - first  # from both sides, as far as its neighbours
        found += after - before - 2  # those up to itself
        labelled += last + 1 - first
    if not keyframes:
        return None, 0
    work = {"flow": float(flows)}
    work |= {"teacher": float(labelled)} if needed.teacher else {}
    work |= {"refine": float(labelled)} if needed.refiner else {}
    what = f"{keyframes} keyframe{'s' if keyframes > 1 else ''} between two others, labelled once more from these"
    return Step("calibrate", what, work), found


def memory(settings: Settings, index: ClipIndex) -> int:
    """Estimate the most memory that one process takes, in bytes: half more or less."""
    pixels, needed = _pixels(index), needs(settings)
    longest = max((i.span[1] - i.span[0] + 1 for clip in index.clips for i in intervals(clip)), default=0)
    frames = min(STRETCH_BYTES, 3 * pixels * longest) + STACK_BYTES
    used = [name for name, uses in (("teacher", needed.teacher), ("refiner", needed.refiner)) if uses]
    trains = settings.student is not None or any(getattr(settings, name) is None for name in used)
    for of_pixel, maps in (FRAME_BYTES[name] for name in ("motion", *used)):
        frames += pixels * (of_pixel + 4 * maps * index.label_map.num_classes)
    return BASE_BYTES + trains * TRAINING_BYTES + frames


def _pixels(index: ClipIndex) -> int:
    """Return the number of pixels of the first frame; clips of one data set seldom differ much."""
    height, width = read_size(index.clips[0].frames[0].image)
    return height * width


def _done(path: Path) -> str | None:
    return f"{path} exists already" if path.is_file() else None


def _taken(settings: Settings) -> str | None:
    run = settings.run
    return f"that of {run.continue_from}" if run.continue_from is not None and not run.continue_steps else None


def _network(
    name: str, settings: Settings, index: ClipIndex, frames: int, there: str | None, onward: int | None = None
) -> Step:
    if there is not None:
        return Step(name, there, {})
    args, recipe = settings.train_teacher, fitted(foreseen(settings.train_teacher), index)
    (height, width), count = recipe.crop, onward or recipe.steps
    steps = f"{count} {'further ' if onward else ''}steps"
    what = f"{steps} of {args.batch} crops of {width}×{height} pixels from {frames} frames"
    return Step(name, what, {"teacher_step": float(count)})


def _refiner(settings: Settings, index: ClipIndex, there: str | None, pixels: int) -> Step:
    if there is not None:
        return Step("refiner", there, {})
    windows = WindowItems(index.clips, index.label_map)
    spans = [windows.span(clip, target) for clip, target in windows.windows]
    args, onward = settings.train_refiner, settings.run.continue_steps
    count = onward or args.steps
    drawn = min(1.0, max(1, count * args.batch // LEAST_EXAMPLES) / max(1, len(spans)))
    # Direct flow from a labelled frame to each frame of its window, and back.
    flows = 2 * drawn * sum(last - first for first, last in spans)
    further = "further " if onward else ""
    what = f"{count} {further}steps on {len(windows)} labelled frames and the flow around them"
    # Image, truth and the teacher's probabilities; a cycle is two sources of a label, a mask and an error.
    maps = drawn * sum(4 + 2 * index.label_map.num_classes + 8 * (last - first) for first, last in spans)
    examples = min(EXAMPLE_BYTES, round(maps * pixels))
    return Step("refiner", what, {"refiner_step": float(count), "flow": flows}, examples)


class Costs:
    """Seconds that the parts of a run take, each measured on this machine when it is first needed.

    Args:
        settings: The settings of the run.
        index: The clips; sizes and frames are taken from the first one.
    """

    def __init__(self, settings: Settings, index: ClipIndex) -> None:
        self.settings = settings
        self.recipe = fitted(foreseen(settings.train_teacher), index)
        self.num_classes = index.label_map.num_classes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        clip: Clip = index.clips[0]
        self.estimator = make_flow(settings.run.flow, settings.run.flow_args).to(self.device)
        frames = [read_image(frame.image) for frame in clip.frames[: self.estimator.pairs_per_call + 1]]
        self.frames = torch.stack(frames).to(self.device)
        labelled = [clip.frames[keyframe] for keyframe in clip.keyframes[:1]]
        size = (self.frames.shape[2], self.frames.shape[3])
        labels = [read_frame_label(frame, index.label_map, size) for frame in labelled]
        self.label = labels[0] if labels else torch.zeros(size, dtype=torch.uint8)
        self._known: dict[str, float] = {}

    def seconds(self, step: Step) -> float:
        """Return the estimated seconds of a step."""
        return sum(times * self._cost(part) for part, times in step.work.items())

    def _cost(self, part: str) -> float:
        if part not in self._known:
            self._known[part] = getattr(self, f"_{part}")()
        return self._known[part]

    def _flow(self) -> float:
        """Measure one flow between two frames, estimated in batches as in a run."""
        estimator, pairs = self.estimator, len(self.frames) - 1
        return _time(lambda: estimator(self.frames[:-1], self.frames[1:])) / pairs if pairs else 0.0

    def _teacher_step(self) -> float:
        args = self.settings.train_teacher
        module = make_segmenter(args, self.recipe, self.num_classes, None).to(self.device)
        size = args.batch, *self.recipe.crop
        images = torch.rand(size[0], 3, *size[1:], device=self.device)
        return _time(lambda: module(images).mean().backward())

    def _teacher(self) -> float:
        args, given = self.settings.train_teacher, self.settings.teacher
        module = load_segmenter(given, self.num_classes)
        module = module or make_segmenter(args, self.recipe, self.num_classes, None).eval()
        with torch.inference_mode():
            return _time(lambda: teacher_probabilities(module.to(self.device), self.frames[0], self.num_classes))

    def _refiner_step(self) -> float:
        refiner = Refiner(self.num_classes).to(self.device)
        inputs = self._refiner_input(self.settings.train_refiner.batch, self.settings.train_refiner.crop)
        return _time(lambda: refiner(inputs).mean().backward())

    def _refine(self) -> float:
        refiner = Refiner(self.num_classes).to(self.device).eval()
        inputs = self._refiner_input(1, (self.frames.shape[2], self.frames.shape[3]))
        with torch.inference_mode():
            return _time(lambda: refined(refiner, inputs))

    def _picture(self) -> float:
        image, label = self.frames[0].cpu(), self.label
        photo, sure = Image.fromarray(image.permute(1, 2, 0).numpy()), image[0] / 255
        return _time(lambda: encode_pictures(photo, label, sure, label, None))

    def _refiner_input(self, batch: int, size: tuple[int, int]) -> RefinerInput:
        height, width = (min(a, b) for a, b in zip(size, self.frames.shape[2:], strict=True))
        shape = [3, self.num_classes, self.num_classes, CUES, self.num_classes]
        maps = torch.rand(batch, sum(shape), height, width, device=self.device).split(shape, 1)
        return RefinerInput(*maps)


def _time(work: Callable[[], object]) -> float:
    """Return the mean seconds of a call, after one call that is not timed."""
    work()
    _wait()
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        work()
    _wait()
    return (time.perf_counter() - started) / TIMED_STEPS


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def describe(settings: Settings, index: ClipIndex, steps: list[Step], costs: Costs | None = None) -> str:
    """Describe the data and each step of a run, one per line; with costs, also how long each step takes."""
    clips = index.clips
    frames, keyframes = sum(len(clip.frames) for clip in clips), sum(len(clip.keyframes) for clip in clips)
    longest = max((i.stop - i.start for clip in clips for i in intervals(clip)), default=0)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cores()
    lines = [
        f"{settings.root} ({index.layout}): {len(clips)} clip{'s' if len(clips) > 1 else ''}, {frames} frames, "
        f"{keyframes} of them labelled, "
        f"intervals of up to {longest} frames, {index.label_map.num_classes} classes",
        f"device: {device}; seed {settings.run.seed}",
    ]
    if costs is not None:
        logger.info("Measuring how long each step takes on this computer …")
    seconds = [costs.seconds(step) if costs is not None else None for step in steps]
    lines += [
        f"{step.name}: {step.what}"
        + (f" · up to {size(step.disk)} on disk" if step.disk else "")
        + (f" · about {duration(took)}" if took else "")
        for step, took in zip(steps, seconds, strict=True)
    ]
    lines.append(f"memory: about {size(memory(settings, index))} for each process")
    if costs is not None:
        lines.append(f"about {duration(sum(took or 0.0 for took in seconds))} in all")
    return "\n".join(lines)


def _cores() -> str:
    """Count the CPU cores that the run may use: a job of a cluster, or a container, may have a few of many."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} CPU core{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Format a number of bytes.

    Example:
        >>> size(3_200_000), size(12_340_000_000)
        ('3 MB', '12.3 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 5e8 else f"{max(1, round(count / 1e6))} MB"


def duration(seconds: float) -> str:
    """Format seconds.

    Example:
        >>> duration(40), duration(720), duration(6000)
        ('40 s', '12 min', '1 h 40 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
