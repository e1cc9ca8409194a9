"""The semi-supervised systems as sequences of stages; what each of them computes is in :mod:`wrp.selftraining`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wrp.data.items import FrameItems
from wrp.data.lists import read_names
from wrp.data.semisupervised import SemiSupervisedData
from wrp.data.transforms import Draw, TrainTransform
from wrp.errors import WrpError
from wrp.geometry.consistency import to_unit
from wrp.io.images import read_image, read_label
from wrp.io.progress import progress
from wrp.io.writing import write_text
from wrp.options import InferenceArgs
from wrp.runs.reliability import predict
from wrp.runs.selftrain.stages import Run
from wrp.runs.stage import Stage
from wrp.runs.training import thirds_of
from wrp.segmentation.module import SegmentationModule
from wrp.segmentation.network import with_features
from wrp.selftraining.cisc_r import (
    MIN_RATIO,
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
from wrp.selftraining.unimatch_v2 import UniMatchV2Module
from wrp.structures import Frame

# R of an image whose classes have no anchor vector; the R of others is a mean of logarithms, and much smaller.
LEAST_RELIABLE = 1e3

# Test-time augmentation with which ST and ST++ predict their pseudo-labels.
ST_INFERENCE = InferenceArgs(scales=[0.5, 0.75, 1.0, 1.5, 2.0], flip=True)


def supervised(run: Run) -> list[Stage]:
    """Train on labelled images only."""
    return run.first_stage()


def self_training(run: Run) -> list[Stage]:
    """Train by ST: one round of pseudo-labels for all unlabelled images."""
    return [
        *run.first_stage(),
        run.labelling("student", run.first, lambda: run.unlabelled, ST_INFERENCE),
        run.training("student", StudentModule, lambda: run.data(run.folder("student")), (run.first,)),
    ]


def st_plus_plus(run: Run) -> list[Stage]:
    """Train by ST++: first with the unlabelled images whose predictions were most stable, then with all."""
    networks = [*thirds_of(run.first), run.first]

    def steadiness(frames: Sequence[Frame]) -> list[float]:
        workers = run.processes.loaders(run.settings.workers)
        predicted = predict([run.load(network) for network in networks], frames, workers)
        images = progress(predicted, desc="Scoring", unit="image", total=len(frames))
        return [stability(labels, run.label_map.num_classes) for labels in images]

    scores = run.scoring("stability", run.first, steadiness)
    return [*run.first_stage(), scores, *_selective(run, "stability", StudentModule, ST_INFERENCE)]


def _selective(
    run: Run,
    ranking: str,
    kind: type[SegmentationModule],
    inference: InferenceArgs | None = None,
    draw: Callable[[], Any] | None = None,
) -> list[Stage]:
    """Train on the reliable half, label the rest with that network, and train on all."""
    frames = {frame.stem: frame for frame in run.unlabelled}

    def half(reliable: bool) -> list[Frame]:
        return [frames[stem] for stem in split_reliable(run.scores(ranking))[0 if reliable else 1]]

    def training(stage: str, network: Path) -> Stage:
        pseudo_labeler: dict[str, Any] = {"pseudo_labeler": str(network)} if issubclass(kind, CiscModule) else {}
        return run.training(stage, kind, lambda: run.data(run.folder(stage)), (network,), draw, **pseudo_labeler)

    second = run.path("reliable")
    return [
        run.labelling("reliable", run.first, lambda: half(True), inference),
        training("reliable", run.first),
        run.labelling("all", run.first, lambda: half(True), inference),
        run.labelling("all", second, lambda: half(False), inference),
        training("all", second),
    ]


def cisc_r(run: Run) -> list[Stage]:
    """Train by CISC-R: rank images and weight pixels by their consistency with labelled images."""
    truths = [read_label(f.label, run.label_map) for f in run.labelled if f.label is not None]
    if not any(classes_shown(truth, run.label_map.num_classes) for truth in truths):
        raise WrpError(
            f"no image of {run.settings.lists.labelled} shows a class on {MIN_RATIO:.0%} of its pixels or more, and "
            "cisc-r compares images by such classes; use another system"
        )

    @cache
    def compared() -> tuple[SegmentationModule, Tensor, QueryIndex]:
        """Return the network of the first stage, the anchor vectors, and the query images of each class."""
        teacher = run.load(run.first)
        return teacher, *anchor_vectors(teacher, run.labelled, truths, run.label_map.num_classes)

    def reliability(frames: Sequence[Frame]) -> list[float]:
        teacher, anchors, _ = compared()
        scores = []
        for frame in progress(frames, desc="Scoring", unit="image"):
            pseudo = read_label(run.folder("first") / f"{frame.stem}.png", run.label_map)
            # Negated, because greater is better in the lists of scores; limited, because JSON has no infinity.
            scores.append(-min(image_reliability(_features(teacher, frame), pseudo, anchors), LEAST_RELIABLE))
        return scores

    return [
        *run.first_stage(CiscModule),
        run.labelling("first", run.first, lambda: run.unlabelled),
        run.scoring("reliability", run.first, reliability),
        *_selective(run, "reliability", CiscModule, draw=lambda: _Queries(run, compared()[2])),
    ]


def anchor_vectors(
    teacher: SegmentationModule, frames: list[Frame], truths: list[Tensor], num_classes: int
) -> tuple[Tensor, QueryIndex]:
    """Compute the anchor vector of each class and the labelled images that represent it best.

    Args:
        teacher: The network whose decoder features are compared.
        frames: Labelled images.
        truths: Their labels, (H, W) uint8.
        num_classes: C.

    Returns:
        Anchor vectors (C, D) float32, zero for classes that no image shows well; and the index of query images.
    """
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
    """Compute the decoder features (D, h, w) of an image."""
    with torch.inference_mode():
        return with_features(teacher.inference_model, to_unit(read_image(frame.image)[None].to(teacher.device)))[1][
            0
        ].cpu()


class _Queries:
    """Draw labelled crops from a :class:`~wrp.selftraining.cisc_r.QueryIndex`."""

    def __init__(self, run: Run, index: QueryIndex) -> None:
        transform = TrainTransform(run.settings.sampling.crop_size, (0.5, 2.0), run.settings.seed)
        self.items = FrameItems([("", i, f) for i, f in enumerate(run.labelled)], run.label_map, transform)
        self.index = index

    def __call__(self, classes: list[int]) -> tuple[Tensor, Tensor]:
        number = int(torch.randint(2**31, ()))
        batch = self.items[Draw(number, self.index.draw(classes, float(torch.rand(()))))]
        return batch.images[0], batch.labels[0]


def three_stage(run: Run) -> list[Stage]:
    """Train by Three-Stage: pseudo-labels train a second head only."""
    names = run.out / "all.txt"

    def everything() -> list[Frame]:
        def write() -> None:
            lists = (run.settings.lists.labelled, run.settings.lists.unlabelled)
            write_text(names, "\n".join(line for path in lists for line in read_names(Path(path))) + "\n")

        if not run.processes.first(names.is_file):
            run.processes.first(write)
        return [*run.labelled, *run.unlabelled]

    def data(stage: str) -> SemiSupervisedData:
        return run.data(run.folder(stage), names=names)

    second = run.path("stage-2")
    return [
        *run.first_stage(),
        run.labelling("stage-2", run.first, everything),
        run.training("stage-2", ThreeStageModule, lambda: data("stage-2"), (run.first,)),
        run.labelling("stage-3", second, everything),
        run.training("stage-3", ThreeStageModule, lambda: data("stage-3"), (second,), shared=None),
    ]


def unimatch(run: Run) -> list[Stage]:
    """Train by UniMatch: learn from the network's own confident predictions, in one stage."""
    return [run.training("unimatch", UniMatchModule, run.data)]


def unimatch_v2(run: Run) -> list[Stage]:
    """Train by UniMatch V2: learn from the confident predictions of the network's average, in one stage."""
    return [run.training("unimatch-v2", UniMatchV2Module, run.data)]


SYSTEMS: dict[str, Callable[[Run], list[Stage]]] = {
    "supervised": supervised,
    "st": self_training,
    "st++": st_plus_plus,
    "cisc-r": cisc_r,
    "three-stage": three_stage,
    "unimatch": unimatch,
    "unimatch-v2": unimatch_v2,
}
