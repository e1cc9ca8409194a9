"""The score that a run is estimated to have, from its keyframes alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wrp.cli.main import main
from wrp.data.synthetic.folder import generate_folder
from wrp.io.tables import format_score
from wrp.metrics.calibration import BINS, LEVELS
from wrp.propagation.confidence import is_counted
from wrp.propagation.estimate import FLOOR, estimate


def counts(confusion: list[int], distance: int = 8) -> dict[str, Any]:
    return {"motion": {"distances": [distance], "confusion": confusion, "pixels": [], "right": [], "confidence": []}}


HALF, SURE = [50, 50, 0, 0, 100, 0], [100, 0, 0, 0, 100, 0]


def test_the_error_shrinks_towards_the_keyframes() -> None:
    far, near = (estimate([counts(HALF)], "motion", [away], 2) for away in (8, 1))
    assert far is not None
    assert near is not None
    assert far.miou == far.held_out_miou == pytest.approx(100 * (50 / 100 + 100 / 150) / 2, abs=0.01)
    assert 100 - FLOOR * (100 - far.miou) > near.miou > far.miou
    beyond = estimate([counts(HALF)], "motion", [30], 2)
    assert beyond is not None
    assert beyond.miou == far.miou  # nothing is foretold beyond what was seen


def test_a_method_without_keyframes_is_as_good_everywhere() -> None:
    found = estimate([counts(HALF)], "motion", [1, 2, 1], 2, grows=False)
    assert found is not None
    assert found.miou == found.held_out_miou


def test_labels_that_differ_make_the_estimate_unsure() -> None:
    same, different = (estimate([counts(a), counts(b)], "motion", [4], 2) for a, b in ((HALF, HALF), (HALF, SURE)))
    assert same is not None
    assert different is not None
    assert same.spread == 0
    assert different.spread is not None
    assert different.spread > 5


def test_what_no_label_shows_is_not_estimated() -> None:
    found = estimate([counts([100, 0, 0, 0, 0, 0])], "motion", [4], 2)
    assert found is not None
    assert found.per_class == (100.0, None)
    assert estimate([counts([0] * 6)], "motion", [4], 2) is None
    assert estimate([counts(HALF)], "motion", [], 2) is None
    assert estimate([], "motion", [4], 2) is None


def test_counts_of_another_number_of_classes_are_not_used() -> None:
    whole = counts(HALF)["motion"] | dict.fromkeys(("pixels", "right", "confidence"), [0] * BINS)
    whole |= {"levels": [0] * 2 * LEVELS, "contradictions": []}
    assert is_counted({"motion": whole}, ["motion"], 2)
    bins = {key: value for key, value in whole.items() if key != "confusion"}
    assert not is_counted({"motion": bins}, ["motion"], 2)
    assert not is_counted({"motion": whole}, ["motion"], 3)
    assert not is_counted({"motion": whole | {"contradictions": [0]}}, ["motion"], 2)


def test_a_run_says_what_its_labels_are_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generate_folder(tmp_path / "scene", num_frames=9, height=48, width=64)
    out = tmp_path / "out"
    command = ["autolabel", str(root), "--label-every", "2", "--methods", "motion", "--flow", "dis-fast"]
    assert main([*command, "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    found = metrics["estimate"]["motion"]
    assert found["labels"] == 3
    assert found["held_out_miou"] < found["miou"] < 100
    said = capsys.readouterr().out
    assert re.search(r"motion: mIoU [\d. ±]+, estimated from 3 keyframes held out in turn\n", said)
    assert "## Estimated quality" in (out / "report.md").read_text()
    assert "mIoU, estimated from keyframes" in (out / "report.html").read_text()


def test_labels_that_networks_have_learned_from_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = generate_folder(tmp_path / "scene", num_frames=9, height=48, width=64)
    command = ["autolabel", str(root), "--methods", "motion,semantic", "--flow", "dis-fast", "--teacher-steps", "1"]
    # The teacher of every fourth label, 0, 4 and 8, has seen one of the three that every second one holds out in turn.
    assert main([*command, "--weights", "none", "--label-every", "4", "--out", "learned"]) == 0
    given = ["--teacher", "learned/teacher.ckpt", "--label-every", "2"]
    assert main([*command[:6], *given, "--out", "given"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"(\w+): mIoU .*, estimated from (\d) keyframes? held out in turn\n", said) == [
        *(("semantic", "1"), ("motion", "1"), ("semantic", "2"), ("motion", "3"))
    ]
    for run, labels, every, seen in (("learned", 1, 1, True), ("given", 2, 3, False)):
        found = json.loads(Path(run, "metrics.json").read_text())["estimate"]
        assert (found["semantic"]["labels"], found["semantic"]["seen"]) == (labels, seen)
        assert (found["motion"]["labels"], found["motion"]["seen"]) == (every, False)
        held_out = json.loads(Path(run, "held_out.json").read_text())["labels"]
        assert [label["seen"] for label in held_out].count(True) == 1
        row = rf"\| semantic +\| +{found['semantic']['miou']:.1f}.*\(optimistic\) \|"
        assert bool(re.search(row, Path(run, "report.md").read_text())) == seen
        page = Path(run, "report.html").read_text().partition("Estimated quality, percent")[2]
        assert bool(re.search(r'<th scope="row">semantic</th><td>[0-9.± ]+ \(optimistic\)</td>', page)) == seen
        road = "".join(f"<td>{format_score(found[method]['per_class']['road'])}</td>" for method in found)
        assert f'<th scope="row">road</th>{road}' in page
    capsys.readouterr()
    assert main(["suggest", "given", "--accept", "0.9"]) == 0
    assert "but the networks have learned from 1 of the 3 keyframes that were held out" in capsys.readouterr().out
