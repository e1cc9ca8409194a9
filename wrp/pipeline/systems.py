"""The semi-supervised systems as sequences of stages; see :mod:`wrp.selftraining` for what each of them computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wrp.data.items import FrameItems
from wrp.data.reading import read_image, read_label
from wrp.data.transforms import Draw, TrainTransform
from wrp.errors import WrpError
from wrp.models.segmenter import with_features
from wrp.modules.segmentation import SegmentationModule
from wrp.ops.consistency import to_unit
from wrp.ops.tiling import Views
from wrp.pipeline.ranking import predict
from wrp.pipeline.selftrain import Run
from wrp.pipeline.training import thirds_of
from wrp.progress import progress
from wrp.selftraining.cisc_r import (
    LEAST_SHARE,
    CiscModule,
    QueryIndex,
    cisc_map,
    classes_shown,
    consistency_bce,
    image_reliability,
    masked_pool,
)
from wrp.selftraining.st_plus_plus import split_reliable, stability
from wrp.selftraining.student import StudentModule
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch import UniMatchModule
from wrp.types import Frame
from wrp.writing import write_text

# R of an image of which nothing can be said; that of others is a mean of logarithms.
LEAST_RELIABLE = 1e3

# ST++ decides its pseudo-labels from these.
ST_VIEWS = Views(scales=[0.5, 0.75, 1.0, 1.5, 2.0], flip=True)


def supervised(run: Run) -> Path:
    """Labelled images alone."""
    return run.first_stage()


def self_training(run: Run) -> Path:
    """ST: one round of pseudo-labels for all."""
    first = run.first_stage()
    return run.train("student", StudentModule, run.data(run.label("student", first, run.unlabelled)))


def st_plus_plus(run: Run) -> Path:
    """ST++: the steady half first, then all."""
    first = run.first_stage()
    networks = [*thirds_of(first), first]

    def steadiness() -> dict[str, float]:
        modules = [run.load(network) for network in networks]
        return {
            frame.stem: stability([predict(module, frame) for module in modules], run.label_map.num_classes)
            for frame in progress(run.unlabelled, desc="Scoring", unit="image")
        }

    reliable, rest = split_reliable(run.scores("stability", steadiness))
    return _selective(run, first, reliable, rest, StudentModule, {}, ST_VIEWS)


def _selective(
    run: Run,
    first: Path,
    reliable: list[str],
    rest: list[str],
    kind: type[SegmentationModule],
    changes: dict[str, Any],
    views: Views | None = None,
) -> Path:
    """Train on the reliable half, let that network label the rest, and train on all."""
    frames = {frame.stem: frame for frame in run.unlabelled}
    folder = run.label("reliable", first, [frames[stem] for stem in reliable], views)
    guesser: dict[str, Any] = {"guesser": str(first)} if issubclass(kind, CiscModule) else {}
    second = run.train("reliable", kind, run.data(folder), **changes, **guesser)
    everything = run.label("all", first, [frames[stem] for stem in reliable], views)
    run.label("all", second, [frames[stem] for stem in rest], views)
    guesser = {"guesser": str(second)} if guesser else {}
    return run.train("all", kind, run.data(everything), **changes, **guesser)


def cisc_r(run: Run) -> Path:
    """CISC-R: consistency with labelled images ranks images and weighs pixels."""
    truths = [read_label(f.label, run.label_map) for f in run.labelled if f.label is not None]
    if not any(classes_shown(truth, run.label_map.num_classes) for truth in truths):
        raise WrpError(
            f"no image of {run.settings.labelled} shows a class on {LEAST_SHARE:.0%} of its pixels or more, and cisc-r "
            "compares images by such classes; use another system"
        )
    first = run.first_stage(CiscModule)
    teacher = run.load(first)
    anchors, index = anchor_vectors(teacher, run.labelled, truths, run.label_map.num_classes)
    folder = run.label("first", first, run.unlabelled)

    def reliability() -> dict[str, float]:
        scores = {}
        for frame in progress(run.unlabelled, desc="Scoring", unit="image"):
            pseudo = read_label(folder / f"{frame.stem}.png", run.label_map)
            # The greater, the better, as in the other lists; JSON has no infinity.
            scores[frame.stem] = -min(image_reliability(_features(teacher, frame), pseudo, anchors), LEAST_RELIABLE)
        return scores

    reliable, rest = split_reliable(run.scores("reliability", reliability))
    return _selective(run, first, reliable, rest, CiscModule, {"draw": lambda: _Queries(run, index)})


def anchor_vectors(
    teacher: SegmentationModule, frames: list[Frame], truths: list[Tensor], num_classes: int
) -> tuple[Tensor, QueryIndex]:
    """Anchor vector of each class, (C, D), and the labelled images that stand for it best."""
    index = QueryIndex([classes_shown(truth, num_classes) for truth in truths])
    pooled: dict[int, list[Tensor]] = {c: [] for c in range(num_classes)}
    for frame, truth in zip(frames, truths, strict=True):
        features = _features(teacher, frame)[None]
        for c in classes_shown(truth, num_classes):
            pooled[c].append(masked_pool(features, (truth == c)[None])[0])
    width = next(vector.shape[0] for vectors in pooled.values() for vector in vectors)
    anchors = torch.stack([torch.stack(v).mean(0) if v else torch.zeros(width) for v in pooled.values()])
    scores = {}
    for number, (frame, truth) in enumerate(zip(frames, truths, strict=True)):
        features, size = _features(teacher, frame)[None], (truth.shape[0], truth.shape[1])
        for c in classes_shown(truth, num_classes):
            found = cisc_map(features, anchors[c][None], size)
            scores[c, number] = float(consistency_bce(found, (truth == c)[None], truth[None]))
    index.keep_best(scores)
    return anchors, index


def _features(teacher: SegmentationModule, frame: Frame) -> Tensor:
    """The decoder's features (D, h, w) of an image."""
    with torch.inference_mode():
        return with_features(teacher.deployed, to_unit(read_image(frame.image)[None].to(teacher.device)))[1][0].cpu()


class _Queries:
    """Draws labelled crops from a :class:`~wrp.selftraining.cisc_r.QueryIndex`."""

    def __init__(self, run: Run, index: QueryIndex) -> None:
        transform = TrainTransform(run.settings.crop_size, (0.5, 2.0), run.settings.seed)
        self.items = FrameItems([("", i, f) for i, f in enumerate(run.labelled)], run.label_map, transform)
        self.index = index

    def __call__(self, classes: list[int]) -> tuple[Tensor, Tensor]:
        number = int(torch.randint(2**31, ()))
        batch = self.items[Draw(number, self.index.draw(classes, float(torch.rand(()))))]
        return batch.images[0], batch.labels[0]


def three_stage(run: Run) -> Path:
    """Three-Stage: pseudo-labels are for a second head alone."""
    first = run.first_stage()
    everything = [*run.labelled, *run.unlabelled]
    names = run.out / "all.txt"
    if not names.is_file():
        lists = (run.settings.labelled, run.settings.unlabelled)
        write_text(names, "\n".join(Path(path).read_text(encoding="utf-8").strip() for path in lists) + "\n")
    folder = run.label("stage-2", first, everything)
    second = run.train("stage-2", ThreeStageModule, run.data(folder, names=names))
    folder = run.label("stage-3", second, everything)
    return run.train("stage-3", ThreeStageModule, run.data(folder, names=names), shared=None)


def unimatch(run: Run) -> Path:
    """The network's own sure predictions, in one stage."""
    return run.train("unimatch", UniMatchModule, run.data())


SYSTEMS: dict[str, Callable[[Run], Path]] = {
    "supervised": supervised,
    "st": self_training,
    "st++": st_plus_plus,
    "cisc-r": cisc_r,
    "three-stage": three_stage,
    "unimatch": unimatch,
}
