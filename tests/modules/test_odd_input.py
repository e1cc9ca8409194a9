"""Input that is legal but rare: one keyframe instead of two, labels without a class, clips of one frame, bad flow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.clips import make_folder
from tests.propagation.small import CLASSES, BrightnessTeacher, IdentityRefiner, stretch
from tests.refinement.small import Constant, window
from wrp import CycleExamples, PropagationModule
from wrp.data.items import WindowItems
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError, WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.counted import CountedFlow
from wrp.geometry.finite import NotFinite
from wrp.structures import IGNORE_INDEX, ClipBatch


class Lost(Constant):
    """A third of the frame has no flow."""

    def estimate(self, *arguments: Any) -> Tensor:
        flow = super().estimate(*arguments)
        flow[:, :, : flow.shape[2] // 3] = float("nan")
        return flow


def interval() -> ClipBatch:
    return stretch((4, 10), 4, 10, (4, 10))


def hidden_at(batch: ClipBatch, *indices: int) -> ClipBatch:
    """The batch with held-out labels that are those of its first keyframe."""
    label = batch.labels[min(batch.labels)]
    return replace(batch, held_out={index: label.clone() for index in indices})


@pytest.mark.parametrize("folder", [False, True])
def test_flow_that_is_not_finite_stops_each_time_it_is_asked_for(folder: bool, tmp_path: Path) -> None:
    batch = interval()
    for _ in range(2):  # the second time it comes out of the cache
        module = PropagationModule(CLASSES, flow=FlowCache(Lost(False), str(tmp_path) if folder else None))
        for _ in range(2):
            with pytest.raises(WrpError, match="flow's values are not finite"):
                list(module.session(batch))


def test_flow_of_the_training_is_not_held_against_aninterval() -> None:
    flow = FlowCache(Lost(False))
    CycleExamples(flow=flow).record(window(), 3)
    module = PropagationModule(CLASSES, flow=flow)
    batch = interval()
    flow.estimator = Constant(False)
    assert len(list(module.session(batch))) == 6


def test_direct_flow_is_counted_once() -> None:
    count = NotFinite()
    with CountedFlow(FlowCache(Constant(True)), "clip", count) as flow:
        flow(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert count.pixels == 64


def test_hidden_labels_without_a_class_leave_the_other_scores() -> None:
    batch = hidden_at(interval(), 5, 7)
    batch.held_out[5].fill_(IGNORE_INDEX)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", devices=1)
    [scores] = trainer.test(PropagationModule(CLASSES), DataLoader([batch], batch_size=None), verbose=False)  # type: ignore
    assert "test/motion/miou_3" in scores
    assert "test/motion/miou_1" not in scores
    batch.held_out[7].fill_(IGNORE_INDEX)
    [scores] = trainer.test(PropagationModule(CLASSES), DataLoader([batch], batch_size=None), verbose=False)  # type: ignore
    assert "test/motion/miou" not in scores


@pytest.mark.parametrize(("method", "keyframes", "distance"), [("motion:previous", (4,), 5), ("motion", (4, 10), 1)])
def test_a_label_names_the_anchors_that_were_asked(method: str, keyframes: tuple[int, ...], distance: int) -> None:
    results = {result.index: result for result in PropagationModule(CLASSES, [method]).session(interval())}
    assert results[9].keyframes == keyframes
    assert results[9].distance == distance


def test_confidence_is_calibrated_at_the_distance_of_the_anchors_that_were_asked() -> None:
    module = PropagationModule(CLASSES, ["motion:previous", "motion"])
    module.calibrate([hidden_at(interval(), 9)])
    assert module.calibration["motion:previous"].distance == 5
    assert module.calibration["motion"].distance == 1


def test_corrected_labels_are_learned_from() -> None:
    source, batch = CycleExamples(flow=Constant(False)), window()
    corrected = replace(batch, labels={1: (batch.labels[1] + 1) % 3})
    windows = [batch, corrected, replace(batch, clip="other")]
    made = []
    record = source.record
    source.record = lambda *given: made.append(1) or record(*given)  # type: ignore[method-assign, func-returns-value]
    items = source.validation(windows, 3)
    for _ in range(2):
        for number, one in enumerate(windows):
            assert torch.equal(items[number].labels[0], one.labels[1])
    assert len(made) == 3


def test_a_clip_of_one_frame_is_no_window_but_counts_in_the_folds(tmp_path: Path) -> None:
    index = open_index(make_folder(tmp_path, {"a": 1, "b": 3}, labelled=(0, 2)))
    windows = WindowItems(index.clips, index.label_map)
    assert [(window.clip, window.queries[0], window.number) for window in windows] == [("b", 0, 1), ("b", 2, 2)]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="no labelled frame has any"):
        WindowItems(index.clips[:1], index.label_map)


@pytest.mark.parametrize("method", ["motion", "vote", "vote-once", "refine"])
def test_labels_do_not_depend_on_torchs_default_precision(method: str) -> None:
    module = PropagationModule(CLASSES, [method], BrightnessTeacher(), IdentityRefiner())
    expected = list(module.session(interval()))
    torch.set_default_dtype(torch.float64)
    try:
        found = list(module.session(interval()))
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.labels, other.labels)
