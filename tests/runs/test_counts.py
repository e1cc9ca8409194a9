"""What a whole run computes: how many flows, how many records, how often a frame is decoded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.clips import make_folder
from wrp.flow.cache import FlowCache
from wrp.io import pixels
from wrp.refinement.sampler import CycleExamples
from wrp.runs import autolabel as run
from wrp.runs.config import RefinerTrainingArgs, RunArgs, Settings, TeacherArgs

QUICK: dict[str, Any] = {
    "train_teacher": TeacherArgs(weights="none", steps=1, crop=(32, 32), batch=1),
    "train_refiner": RefinerTrainingArgs(steps=60, crop=(16, 16), batch=6),
}


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> list[FlowCache]:
    """The flows of the runs."""
    made: list[FlowCache] = []

    def keep(*given: Any) -> FlowCache:
        made.append(FlowCache(*given))
        return made[-1]

    monkeypatch.setattr(run, "FlowCache", keep)
    return made


def settings(root: Path, name: str, **changes: Any) -> Settings:
    return Settings(str(root), str(root.parent / name), run=RunArgs(flow="dis-fast"), **{**QUICK, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labelled", "least", "most"),
    [((4,), 1.2, 1.4), ((0, 6, 12), 1.3, 2.0)],
    ids=["one label and no calibration", "three labels and a calibration"],
)
def test_flow_is_hardly_estimated_more_often_than_labelling_alone_needs(
    tmp_path: Path, flows: list[FlowCache], labelled: tuple[int, ...], least: float, most: float
) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 13}, labelled=labelled)
    for name, methods in (("alone", "motion"), ("all", "motion,semantic,inpaint,refine")):
        run.autolabel(settings(root, name, methods=methods))
    alone, everything = (flow.estimates for flow in flows)
    # Both ways between neighbours, and directly from each frame to its keyframes.
    needed = 2 * 12 + sum(len(sides(i, labelled)) for i in range(13))
    calibrated = 2 * max(0, len(labelled) - 2)  # directly from each label in turn to the keyframes around it
    assert alone == needed + calibrated
    assert least <= everything / needed <= most


def sides(index: int, labelled: tuple[int, ...]) -> set[int]:
    """The keyframes that are warped into a frame."""
    if index in labelled:
        return set()
    before, after = [a for a in labelled if a < index], [a for a in labelled if a > index]
    return {*before[-1:], *after[:1]}


@pytest.mark.slow
def test_records_are_made_once_and_frames_decoded_once_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 13}, labelled=(0, 6, 12))
    made: list[int] = []
    record = CycleExamples.record
    monkeypatch.setattr(CycleExamples, "record", lambda *given: made.append(1) or record(*given))
    decoded: Counter[str] = Counter()
    read = pixels.decode
    monkeypatch.setattr(
        pixels, "decode", lambda path, mode: decoded.update([path.name] * (mode == "RGB")) or read(path, mode)
    )
    run.autolabel(settings(root, "out"))
    assert len(made) == 3
    assert len(decoded) == 13
    # The check of labelled frames and the training decode those; windows, calibration, labels and the report, all.
    assert max(decoded.values()) <= 8
