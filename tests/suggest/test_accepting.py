"""Which labels need no review: limits by hand-made counts, what is written, and whether what is accepted is right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.clips import save
from wrp.cli.main import main
from wrp.data.synthetic.folder import generate_folder
from wrp.io.images import read_image
from wrp.metrics.calibration import LEVELS
from wrp.suggest.accepting import Limits, expected_error, find_limits, least_labels, read_held_out, risks

NONE = np.zeros((0, LEVELS))


def drawn(count: int, generator: np.random.Generator, pixels: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose pixels are right as often as their confidence says, give or take what differs between frames."""
    levels = np.arange(LEVELS) / (LEVELS - 1)
    totals = generator.multinomial(pixels, levels**8 / (levels**8).sum(), count)
    harder = generator.uniform(0.5, 2, (count, 1))
    return totals, generator.binomial(totals, np.clip(1 - harder * (1 - levels), 0, 1))


def test_without_keyframes_the_confidence_alone_decides() -> None:
    histogram = np.zeros(LEVELS)
    histogram[[0, 204, 250, 255]] = 1000, 50, 100, 100
    limits = find_limits(histogram, NONE, NONE, [], 0.95)
    assert limits == Limits(205, pytest.approx(0.025), 0, False), (
        "at 204, a twentieth of the pixels would be wrong, twice what is allowed"
    )
    assert find_limits(histogram, NONE, NONE, [], 0.5).pixel == 1
    histogram[250:] = 0
    assert find_limits(histogram, NONE, NONE, [], 0.99).pixel == LEVELS, "no pixel is sure enough"
    assert find_limits(np.zeros(LEVELS), NONE, NONE, [], 0.9).pixel == LEVELS


def test_keyframes_that_were_wrong_where_they_were_sure_raise_the_limit() -> None:
    histogram, pixels, right = np.zeros(LEVELS), np.zeros((2, LEVELS)), np.zeros((2, LEVELS))
    histogram[[245, 250, 255]] = 1000
    pixels[:, [245, 250, 255]] = 100
    right[0, [245, 250, 255]] = 60, 98, 100
    right[1, [245, 250, 255]] = 100, 90, 100
    assert find_limits(histogram, NONE, NONE, [], 0.95).pixel == 1
    assert find_limits(histogram, pixels, right, [], 0.95).pixel == 246
    assert find_limits(histogram, pixels, right, [], 0.99).pixel == 251
    frames = [(0.01, 0.02), (0.02, 0.4), (0.005, 0.0)]
    assert 0.01 <= find_limits(histogram, pixels, right, frames, 0.95).frame < 0.02
    assert find_limits(histogram, pixels, right, [(0.02, 0.4)], 0.95).frame < 0.02


def test_a_guarantee_needs_labels_enough_and_holds() -> None:
    generator, told, wrong = np.random.default_rng(0), 0, []
    for _ in range(60):
        pixels, right = drawn(40, generator)
        histogram, truth = drawn(20, generator)
        limits = find_limits(histogram.sum(0), pixels, right, [], 0.9)
        told += limits.guaranteed
        accepted = slice(limits.pixel, None)
        errors = 1 - truth[:, accepted].sum(1) / np.maximum(1, histogram[:, accepted].sum(1))
        wrong += [errors.mean()] * limits.guaranteed
    assert told > 20
    assert np.mean(wrong) <= 0.1
    few = drawn(least_labels(0.9) - 1, generator)
    assert not find_limits(few[0].sum(0), few[0], few[0], [], 0.9).guaranteed, "all are right, but they are too few"
    enough = drawn(least_labels(0.9), generator)[0]
    sure = find_limits(enough.sum(0), enough, enough, [], 0.9)
    assert sure.guaranteed
    learned = find_limits(enough.sum(0), enough, enough, [], 0.9, seen=True)
    assert (learned.pixel, learned.held_out, learned.guaranteed) == (sure.pixel, 0, False)
    assert learned.frame < sure.frame


def test_risks_do_not_grow_with_the_level() -> None:
    found = risks(*drawn(5, np.random.default_rng(1)))
    assert (np.diff(found, axis=1) <= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert expected_error(np.zeros(LEVELS)) == 1


def test_what_is_accepted_is_written_and_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = generate_folder(tmp_path / "scene", seed=3), tmp_path / "run"
    assert main(["autolabel", str(root), f"--out={out}", "--label-every=6", "--methods=motion", "--flow=dis-fast"]) == 0
    held_out = json.loads((out / "held_out.json").read_text())
    pixels, right, seen = read_held_out(out)
    assert not seen.any()
    assert held_out["method"] == "motion"
    assert len(pixels) == len(held_out["labels"]) >= 3
    assert (right.sum(1) / pixels.sum(1) > 0.5).all()
    capsys.readouterr()
    shares = {}
    for accept in (0.9, 0.99):
        assert main(["suggest", str(out), f"--accept={accept}"]) == 0
        said = capsys.readouterr().out
        assert re.match(
            rf"Without a guarantee, \d+ of \d+ frames \(\d+\.\d %\) and \d+\.\d % of all pixels need no review: "
            rf"at least {100 * accept:g} % of them should be right, but \d+ keyframes could be held out in turn to "
            rf"check it, and a guarantee needs {least_labels(accept)}\n",
            said,
        )
        listed = [(out / name).read_text().splitlines() for name in ("accepted.txt", "look-at.txt")]
        masks = sorted((out / "accepted").rglob("*.png"))
        assert sorted(listed[0] + listed[1]) == [mask.relative_to(out / "accepted").as_posix()[:-4] for mask in masks]
        ok = total = 0
        for mask in masks:
            name = mask.relative_to(out / "accepted")
            accepted = read_image(mask)[0].numpy() == 255
            agree = read_image(out / "labels" / name).numpy() == read_image(root / "labels" / name).numpy()
            ok, total = ok + (agree.all(0) & accepted).sum(), total + accepted.sum()
        shares[accept] = total
        assert ok / total >= accept - 0.02
    assert shares[0.9] > shares[0.99] > 0


@pytest.mark.parametrize(("options", "message"), [("--accept=1", "below 1"), ("--accept=nan", "below 1")])
def test_a_ratio_that_cannot_be_asked_for_is_refused(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for number in range(3):
        save(tmp_path / f"data/frames/walk/{number}.png", np.full((16, 24, 3), 80, np.uint8))
    save(tmp_path / "data/labels/walk/0.png", np.zeros((16, 24), np.uint8))
    (tmp_path / "data/classes.yaml").write_text("classes:\n  - {id: 0, name: road, color: [1, 2, 3]}\n")
    assert main(["autolabel", str(tmp_path / "data"), f"--out={out}", "--methods=copy"]) == 0
    assert main(["suggest", str(out), options]) == 2
    assert message in capsys.readouterr().err
    assert main(["suggest", str(out), "--accept=0.9", "--simulate"]) == 2
    assert main(["suggest", str(out), "--accept=0.9"]) == 0, "no keyframe was held out, so the confidence decides"
    assert "but no keyframes could be held out in turn to check it" in capsys.readouterr().out
    (out / "held_out.json").write_text('{"labels": [{"seen": false, "pixels": [1], "right": [2]}]}')
    assert main(["suggest", str(out), "--accept=0.9"]) == 2
    assert "held_out.json" in capsys.readouterr().err
