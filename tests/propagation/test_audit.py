"""Keyframes whose labels contradict those of their neighbours: found, written, and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.clips import save
from tests.reports import ids
from wrp.cli.main import main
from wrp.data.synthetic.folder import generate_folder
from wrp.metrics.calibration import BINS
from wrp.propagation.audit import find_contradictions
from wrp.propagation.confidence import fit_confidence, fit_without

SIZE = (80, 120)


def test_only_large_sure_regions_of_known_classes_are_found() -> None:
    own, other = np.zeros((2, *SIZE), np.uint8)
    confidence = np.ones(SIZE, np.float32)
    other[10:30, 10:40] = 1
    other[40:60, 10:40], confidence[40:60, 10:40] = 1, 0.45  # not sure
    other[10:30, 60:90], own[10:30, 60:90] = 1, 255  # its own label says nothing
    other[40:60, 60:90] = 255  # the neighbours say nothing
    other[:, 110:112] = 1  # a band along a border
    other[70:72, 60:62] = 1  # too small
    [found] = find_contradictions(own, other, confidence)
    assert (found.own, found.other, found.box, found.confidence) == (0, 1, (10, 10, 30, 20), 1.0)
    assert 0.95 * 600 <= found.pixels <= 600


def test_regions_are_told_apart_by_their_classes() -> None:
    own, other = np.zeros((2, *SIZE), np.uint8)
    other[10:30, 10:30], other[10:30, 30:60] = 1, 2
    own[50:70, 10:30] = 3
    found = find_contradictions(own, other, np.ones(SIZE, np.float32))
    assert [(one.own, one.other, one.box) for one in found] == [
        (0, 2, (30, 10, 30, 20)),
        (0, 1, (10, 10, 20, 20)),
        (3, 0, (10, 50, 20, 20)),
    ]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street of 13 frames of which every sixth has a label."""
    root = generate_folder(tmp_path_factory.mktemp("street") / "clips", num_frames=13, height=96, width=160)
    for path in root.glob("labels/*/*.png"):
        if int(path.stem) % 6:
            path.unlink()
    return root


@pytest.mark.slow
def test_a_planted_mistake_is_named_in_the_report(street: Path, tmp_path: Path) -> None:
    run = ["--methods=copy,motion", "--flow=dis-fast"]
    assert main(["autolabel", str(street), f"--out={tmp_path / 'right'}", *run]) == 0
    assert json.loads((tmp_path / "right/audit.json").read_text()) == {"method": "motion", "contradictions": []}
    assert "Keyframes to check" not in (tmp_path / "right/report.md").read_text()

    wrong = shutil.copytree(street, tmp_path / "clips")
    [path] = wrong.glob("labels/*/*06.png")
    label = ids(path)
    box = np.s_[30:60, 60:100]
    label[box] = min(np.unique(label), key=lambda value: np.count_nonzero(label[box] == value))
    save(path, label)
    out = tmp_path / "wrong"
    assert main(["autolabel", str(wrong), f"--out={out}", *run]) == 0
    found = json.loads((out / "audit.json").read_text())["contradictions"]
    assert {one["frame"] for one in found} == {path.stem}
    left, top, width, height = found[0]["box"]
    assert 58 <= left < left + width <= 102
    assert 28 <= top < top + height <= 62
    assert json.loads((out / "metrics.json").read_text())["contradictions"] == found
    report = (out / "report.md").read_text()
    assert f"contradict the keyframes beside them: {found[0]['clip']}/{path.stem}." in report
    assert (out / "audit/0.png").is_file()
    page = (out / "report.html").read_text()
    assert "Keyframes to check" in page
    assert page.count("<figcaption>") >= min(6, len(found))


def test_each_keyframe_is_judged_by_the_others() -> None:
    generator = np.random.default_rng(0)
    counted = []
    for distance in (3, 5, 9):
        pixels = generator.integers(50, 100, BINS)
        right = (pixels * (np.arange(BINS) + 0.5) / BINS * 0.9).astype(int)
        units = pixels * np.arange(BINS) * 10
        counts = {"pixels": pixels, "right": right, "confidence": units}
        counted.append({"motion": {"distances": [distance]} | {key: of.tolist() for key, of in counts.items()}})
    lines = fit_without(counted, "motion", [0, 2])
    assert lines == [fit_confidence(others, ["motion"])["motion"] for others in (counted[1:], counted[:2])]
    assert fit_without(counted[:1], "motion", [0]) == [None], "there are no others"
