"""report.html: what is in it, and when it is written."""

from __future__ import annotations

import base64
import configparser
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wrp
from tests.clips import bare_clip, make_folder, save
from tests.reports import COLORS, FRAMES, ids
from wrp.cli.main import main
from wrp.data.synthetic.folder import generate_folder
from wrp.report import page as html
from wrp.report.page import FrameRow, choose_frames


def data_of(out: Path) -> dict[str, Any]:
    """The data block of a page."""
    text = (out / "report.html").read_text(encoding="utf-8")
    block = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data: dict[str, Any] = json.loads(block)
    return data


def pixels(webp: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(webp))) as image:
        assert image.format == "WEBP"
        return np.array(image.convert("RGB"))


def indices(values: np.ndarray) -> np.ndarray:
    """Class indices of ids."""
    table = np.full(256, 255, np.uint8)
    table[list(COLORS)] = range(len(COLORS))
    return table[values]


def test_the_pictures_are_those_of_the_run(reported: Path) -> None:
    data = data_of(reported)
    clips = {clip["name"]: clip for clip in data["clips"]}
    assert set(clips) == set(FRAMES)
    frames = clips["walk"]["frames"]
    assert [frame["index"] for frame in frames] == list(range(9))
    assert clips["walk"]["keyframes"] == [0, 4, 8]
    truth = reported.parent / "clips/labels/walk"
    for frame in frames:
        name = f"{frame['stem']}.png"
        assert np.array_equal(pixels(frame["labels"])[..., 0], indices(ids(reported / "labels/walk" / name)))
        certainty = pixels(frame["certainty"])[..., 0].astype(float)
        assert np.abs(certainty - ids(reported / "confidence/walk" / name)).mean() < 12
        shown = pixels(frame["image"]).astype(float)
        assert np.abs(shown - ids(reported.parent / "clips/frames/walk" / name)).mean() < 25
        keyframe = frame["index"] in (0, 4, 8)
        assert frame["method"] == ("keyframe" if keyframe else "motion")
        assert (frame["truth"] is None) == (frame["miou"] is None) == (frame["provenance"] is None) == keyframe
        if not keyframe:
            assert np.array_equal(pixels(frame["truth"])[..., 0], indices(ids(truth / name)))
            assert np.array_equal(pixels(frame["provenance"])[..., 0], ids(reported / "provenance/walk" / name))


def test_the_legend_names_no_source_that_the_run_has_not(reported: Path) -> None:
    names = [entry["name"] for entry in data_of(reported)["provenance_legend"]]
    assert names == ["none", "earlier keyframe", "later keyframe", "both keyframes"]


def test_the_score_of_a_frame_is_that_of_its_classes(reported: Path) -> None:
    walk = next(clip for clip in data_of(reported)["clips"] if clip["name"] == "walk")
    for frame in walk["frames"]:
        if frame["miou"] is not None:
            name = f"{frame['stem']}.png"
            given, right = ids(reported / "labels/walk" / name), ids(reported.parent / "clips/labels/walk" / name)
            pairs = [((given == i) & (right == i), (given == i) | (right == i)) for i in COLORS]
            wanted = np.mean([both.sum() / either.sum() for both, either in pairs if either.any()])
            assert frame["miou"] == pytest.approx(100 * wanted, abs=0.01)
    assert walk["miou"] == [frame["miou"] for frame in walk["frames"]]
    assert walk["confidence"] == [frame["confidence"] for frame in walk["frames"]]


def test_the_page_is_one_file(reported: Path) -> None:
    text = (reported / "report.html").read_text(encoding="utf-8")
    assert "mIoU by method and distance" in text
    assert "IoU by class" in text
    assert "mIoU by clip" in text
    assert 'class="reliability"' in text
    assert "pytorch-lightning" in text
    assert "frames are included" not in text
    for address in ("http://", "https://", "@import", "url("):
        assert address not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_data_travel_with_the_package() -> None:
    setup = configparser.ConfigParser()
    root = Path(wrp.__file__).parent
    setup.read(root.parent / "setup.cfg")
    named = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in root.parent.joinpath(*package.split(".")).glob(pattern)
    }
    others = {p for p in root.rglob("*") if p.is_file() and p.suffix != ".py" and p.parent.name != "__pycache__"}
    assert others
    assert named == others


def row(index: int, miou: float | None, confidence: float = 0.9) -> FrameRow:
    return FrameRow(index, f"{index:05d}", "motion", 1, confidence, miou)


def test_long_clips_keep_their_worst_frames_and_keyframes() -> None:
    clip = bare_clip(1000, keyframes=range(0, 1000, 10))
    rows = [row(i, None if i % 10 == 0 else 90.0) for i in range(1000)]
    for worst in (333, 334, 777):
        rows[worst] = row(worst, 1.0)
    chosen = choose_frames(clip, rows, 40)
    assert len(chosen) == 40
    assert chosen == sorted(set(chosen))
    assert {333, 334, 777, 0, 990} <= set(chosen)
    assert len([i for i in chosen if i % 10 == 0]) >= 10
    assert max(np.diff(chosen)) < 120
    assert choose_frames(clip, rows, 1000) == list(range(1000))
    assert len(choose_frames(clip, rows, 1)) == 1


def test_frames_without_truth_are_ranked_by_confidence() -> None:
    rows = [row(0, None, 0.2), row(1, 95.0), row(2, None, 0.1), row(3, 50.0)]
    assert [r.index for r in sorted(rows, key=lambda r: r.rank)] == [3, 1, 2, 0]


def test_what_is_left_out_is_said(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(reported, tmp_path / "out"))
    monkeypatch.setattr(html, "FRAMES_PER_CLIP", 4)
    monkeypatch.setattr(html, "LONGEST", 20)
    assert main(["report", str(out)]) == 0
    text = (out / "report.html").read_text()
    assert "Pictures of only 8 of the 14 frames are included" in text
    assert [len(clip["frames"]) for clip in data_of(out)["clips"]] == [4, 4]
    assert [len(clip["miou"]) for clip in data_of(out)["clips"]] == [5, 9]
    assert pixels(data_of(out)["clips"][0]["frames"][0]["labels"]).shape == (12, 20, 3)
    monkeypatch.setattr(html, "CLIPS", 1)
    assert main(["report", str(out)]) == 0
    assert "This page shows only the 1 lowest-scoring of 2 clips" in (out / "report.html").read_text()
    means = {
        clip: scores["motion"]["miou"]
        for clip, scores in json.loads((out / "metrics.json").read_text())["clips"].items()
    }
    assert [clip["name"] for clip in data_of(out)["clips"]] == [min(means, key=means.__getitem__)]


def test_a_run_without_hidden_labels_has_no_scores(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"<i>walk": 5}, labelled=(2,))
    assert main(["autolabel", str(root), "--out", str(tmp_path / "out"), "--methods", "motion"]) == 0
    text = (tmp_path / "out/report.html").read_text()
    assert "no labels were held out" in text
    said = (tmp_path / "out/report.md").read_text()
    for report, clip in ((text, "&lt;i&gt;walk"), (said.replace("`", ""), r"\<i\>walk")):
        assert "How good the labels are is not known: an estimate needs a clip with three labelled frames" in report
        frame = re.escape(clip) + r"/0000\d"
        assert re.search(rf"Look first at the frames of the lowest mean confidence: {frame} \(0\.\d+\),", report)
        assert re.search(rf"Label next: {frame}, {frame}, {frame}; (?:<code>)?wrp suggest ", report)
        assert "run.seed" in report
        assert "train_teacher" not in report
        assert "train_refiner" not in report
    assert "Scores on held-out frames" not in text
    assert data_of(tmp_path / "out")["clips"][0]["miou"] == [None] * 5


def test_report_is_written_again(reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(reported, tmp_path / reported.name))
    before = {name: (out / name).read_bytes() for name in ("report.html", "report.md", "metrics.json")}
    (out / "report.html").unlink()
    (out / "report.md").unlink()
    assert main(["report", str(out)]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("settings.json", "expected the output of `wrp autolabel`"),
        ("metrics.json", "the labels are there, but have not been scored; run the command that made them again"),
        ("labels/walk/00003.png", "is not finished: 1 of 14 labels are missing, the first is"),
        ("confidence/walk/00003.png", "there is no file"),
        ("manifest.jsonl", "there is no"),
        ("metrics.json=", "metrics.json is damaged"),
        ("metrics.json={}", "metrics.json cannot be used"),
        ('metrics.json={"schema": 3}', "metrics.json cannot be used (it lacks settings)"),
        ("settings.json=[", "settings.json is damaged"),
        ("settings.json=[1]", "settings.json is damaged"),
        ('settings.json={"root": 5}', "settings.json is damaged (its root is 5)"),
        ("manifest.jsonl=", "manifest.jsonl lacks frame 00000 of clip"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(
    reported: Path, tmp_path: Path, broken: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(reported, tmp_path / "out"))
    (out / "report.html").unlink()
    name, damaged, content = broken.partition("=")
    (out / name).unlink()
    if damaged:
        (out / name).write_text(content)
    assert main(["report", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert name.rpartition("/")[2] in error
    assert not (out / "report.html").exists()


@pytest.mark.slow
def test_the_page_of_a_clip_of_vga_size_stays_small(tmp_path: Path) -> None:
    root = generate_folder(tmp_path / "scene", num_frames=51, height=360, width=480)
    out, random = tmp_path / "out", np.random.default_rng(0)
    for path in sorted((root / "frames/street0").iterdir()):  # the noise of a camera, which compresses badly
        noisy = ids(path) + random.normal(0, 5, (360, 480, 3))
        save(path, noisy.clip(0, 255).astype(np.uint8))
    assert main(["autolabel", str(root), "--out", str(out), "--label-every", "25", "--methods", "copy"]) == 0
    for path in (out / "labels/street0").iterdir():  # sources could not be worse
        save(out / "provenance/street0" / path.name, random.integers(0, 8, (360, 480), np.uint8))
    assert main(["report", str(out)]) == 0
    assert all(frame["provenance"] for frame in data_of(out)["clips"][0]["frames"])
    assert 2e6 < (out / "report.html").stat().st_size < 15e6
