"""Large jobs: shares of the work, limits, and runs that are killed and go on."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import make_folder
from tests.forked import Forked
from wrp import PropagationModule
from wrp.cli.main import main
from wrp.errors import WrpError

CLIPS = {"walk": 14, "run": 9, "jump": 5}


def tree(out: Path) -> dict[str, bytes]:
    """All that a run leaves for others: pictures and manifest."""
    paths = [*sorted(out.rglob("*.png")), out / "manifest.jsonl"]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if "report" not in path.parts}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("jobs") / "clips", CLIPS, labelled=(0, 2, 4))


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(autolabel(root, out)) == 0
    return tree(out)


def autolabel(root: Path, out: Path, *flags: str) -> list[str]:
    return ["autolabel", str(root), "--out", str(out), "--methods", "vote,motion", *flags]


def test_shards_write_what_one_run_writes(root: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    assert main(autolabel(root, out, "--limit", "0")) == 0
    counts = []
    for shard in ("2/3", "3/3", "1/3"):
        assert main(autolabel(root, out, "--shard", shard)) == 0
        counts.append(len(list((out / "labels").rglob("*.png"))))
        assert (out / "metrics.json").is_file() == (shard == "1/3")
    assert 0 < counts[0] < counts[1] < counts[2] == sum(CLIPS.values())
    assert tree(out) == whole


def test_a_limited_run_is_finished_by_the_next(root: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    assert main(autolabel(root, out, "--limit", "0")) == 0
    assert not (out / "labels").exists()
    assert (out / "calibration.json").is_file()
    assert main(autolabel(root, out, "--limit", "2")) == 0
    assert not (out / "metrics.json").exists()
    assert main(autolabel(root, out)) == 0
    assert tree(out) == whole


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_result(root: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    draw = random.Random(0)
    killed = 0
    while killed < 3:
        # From the first label on.
        before = len(list(out.rglob("*.png")))
        job = Forked(autolabel(root, out))
        while job.runs() and len(list(out.rglob("*.png"))) <= before + draw.randrange(12):
            time.sleep(0.002)
        assert job.runs(), "the run ended before it was killed"
        job.kill()
        killed += 1
        if (out / "metrics.json").exists():
            break
    assert killed == 3
    half = out / "labels" / "walk" / ".half.png.0123.tmp"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half")
    assert main(autolabel(root, out)) == 0
    assert not list(out.rglob(".*.tmp"))
    assert tree(out) == whole


@pytest.mark.parametrize("damage", ["", "{", "[]", "gone", "shorter", "of another frame"])
def test_what_is_damaged_is_made_again(root: Path, tmp_path: Path, whole: dict[str, bytes], damage: str) -> None:
    out = tmp_path / "out"
    assert main(autolabel(root, out)) == 0
    part = sorted((out / "manifest.parts").rglob("*.jsonl"))[0]
    first, *others = part.read_text().splitlines()
    if damage == "gone":
        (out / "confidence" / Path(json.loads(first)["label"]).relative_to("labels")).write_bytes(b"")
    elif damage == "of another frame":
        part.write_text("\n".join([first, *others[:-1], first]) + "\n")
    else:
        part.write_text("\n".join(others) if damage == "shorter" else damage)
    assert main(autolabel(root, out)) == 0
    assert tree(out) == whole


@pytest.mark.parametrize("flags", [("--shard", "0/3"), ("--shard", "4/3"), ("--shard", "two"), ("--limit", "-1")])
def test_wrong_shares_are_refused(
    root: Path, tmp_path: Path, flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(autolabel(root, tmp_path / "out", *flags)) == 2
    assert f"wrp: error: {flags[0]} must be" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shards_do_not_each_train_a_teacher(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["autolabel", str(root), "--out", str(tmp_path / "out"), "--methods", "inpaint", "--shard", "1/2"]
    assert main(command) == 2
    assert "needs teacher.ckpt and calibration.json" in capsys.readouterr().err


def test_labels_that_are_not_confident_are_left_out(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(autolabel(root, tmp_path / "all", "--methods", "vote")) == 0
    assert main(autolabel(root, out, "--methods", "vote", "--min-confidence", "0.9")) == 0
    left_out = 0
    for path in sorted((out / "labels").rglob("*.png")):
        labels = np.array(Image.open(path))
        confidence = np.array(Image.open(out / "confidence" / path.relative_to(out / "labels")))
        assert (labels[confidence < 0.9 * 255 - 1] == 255).all()
        everything = np.array(Image.open(tmp_path / "all" / path.relative_to(out)))
        assert (labels == everything)[labels != 255].all()
        left_out += int((labels != everything).sum())
    assert left_out > 0


def test_the_source_map_says_who_agrees_with_the_label(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(autolabel(root, out)) == 0
    sources = {
        path.parent.name + "/" + path.stem: np.array(Image.open(path)) for path in (out / "provenance").rglob("*.png")
    }
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    between = [line for line in lines if line["method"] == "motion"]
    assert {f"{line['clip']}/{line['frame']}" for line in between} == set(sources)
    for line in between:
        values = set(np.unique(sources[f"{line['clip']}/{line['frame']}"]).tolist())
        assert values <= ({0, 1, 2, 3} if len(line["keyframes"]) == 2 else {0, 1})
        assert 1 in values or 3 in values


def test_confidence_is_calibrated_once_on_the_keyframes(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert main(autolabel(root, out, "--limit", "1")) == 0
    lines = json.loads((out / "calibration.json").read_text())
    assert set(lines) == {"vote", "motion"}
    assert all(line["distance"] == 2 for line in lines.values())
    lines["motion"]["shift"] = -9.0
    (out / "calibration.json").write_text(json.dumps(lines))
    assert main(autolabel(root, out)) == 0
    assert json.loads((out / "calibration.json").read_text()) == lines
    confident = [np.array(Image.open(path)).mean() for path in sorted((out / "confidence").rglob("*.png"))]
    assert min(confident) < 60

    single = make_folder(tmp_path / "single", {"walk": 3}, labelled=(0,))
    with caplog.at_level("INFO", "wrp"):
        assert main(autolabel(single, tmp_path / "other")) == 0
    assert "not calibrated: no clip has three labelled frames" in caplog.text
    assert (tmp_path / "other" / "calibration.json").read_text().strip() == "{}"


@pytest.mark.parametrize("content", ["no json", "[1]", '{"motion": {"shift": 1}}', '{"motion": 3}'])
def test_a_damaged_calibration_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(WrpError, match="cannot be read as a calibration"):
        PropagationModule(3, calibration=str(path))
