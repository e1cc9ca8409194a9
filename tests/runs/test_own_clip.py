"""A video and labels that lie anywhere, in one command."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import CLASSES_YAML, HEIGHT, LABEL_MAP, WIDTH, id_picture, make_video, picture, save
from wrp.cli.main import main
from wrp.data.checking import file_hashes
from wrp.data.run import open_run
from wrp.io.writing import write_label

HOOD = 6  # rows at the bottom that are never labelled


@pytest.fixture
def clip(tmp_path: Path) -> list[str]:
    """The arguments that name a video, its labels, some of its frames and what is never labelled."""
    make_video(tmp_path / "walk.mp4", [picture(i) for i in range(14)])
    for number in (0, 2, 6, 10):
        save(tmp_path / "drawn" / f"{number}.png", id_picture(number))
    (tmp_path / "drawn" / "classes.yaml").write_text(CLASSES_YAML)
    paint_hood(HOOD)
    return ["walk.mp4", "--labels", "drawn", "--frames", "2:13:2", "--never", "hood.png"]


def paint_hood(rows: int) -> None:
    hood = np.zeros((HEIGHT, WIDTH), np.uint8)
    hood[HEIGHT - rows :] = 200
    save(Path("hood.png"), hood)


def written(kind: str, stem: str) -> np.ndarray:
    return np.array(Image.open(Path("out", kind, "walk", f"{stem}.png")))


def test_a_video_is_labelled_in_one_command(
    clip: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    command = ["autolabel", *clip, "--out", "out", "--methods", "motion"]
    assert main([*command, "--label-every", "2"]) == 0
    stems = [f"{number:06d}" for number in range(2, 13, 2)]
    assert sorted(path.stem for path in Path("out", "labels", "walk").iterdir()) == stems
    for stem in stems:
        labels, confidence = written("labels", stem), written("confidence", stem)
        assert (labels[-HOOD:] == 255).all()
        assert (confidence[-HOOD:] == 0).all()
        assert (labels[:-HOOD] != 255).mean() > 0.9
    assert not (written("provenance", "000006")[-HOOD:]).any()
    keyframe, *_ = map(json.loads, Path("out", "manifest.jsonl").read_text().splitlines())
    assert keyframe["mean_confidence"] == 1  # the mean of what can be labelled
    metrics = json.loads(Path("out", "metrics.json").read_text())
    pixels = sum(pixels for *_, pixels in metrics["overall"]["motion"]["reliability"])
    assert pixels == (HEIGHT - HOOD) * WIDTH  # of the one held-out label
    chosen = metrics["settings"]["select"]
    assert (chosen["labels"], chosen["never"]) == (str(tmp_path / "drawn"), str(tmp_path / "hood.png"))
    assert chosen["frames"] == "2:13:2"
    assert "the label of frame 000000 is not used, as it is not in --frames 2:13:2" in caplog.text
    # The record is read from anywhere, and holds on to what the labels were made with.
    monkeypatch.chdir(tmp_path / "drawn")
    assert [frame.stem for frame in open_run(tmp_path / "out").clips[0].frames] == stems
    monkeypatch.chdir(tmp_path)
    clips = open_run(tmp_path / "out").clips
    before = file_hashes(clips)["walk"]
    capsys.readouterr()
    assert main(["suggest", "out", "-n", "1"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.match(rf"next: label these frames in {tmp_path / 'drawn'}, as 0000\d\d\.png and so on, then run", told)
    paint_hood(HOOD - 2)
    assert file_hashes(clips)["walk"].split()[0] != before.split()[0]  # clips without a label have no other hash
    assert main([*command, "--label-every", "2"]) == 2
    assert f"holds a run of before {tmp_path / 'hood.png'} was changed" in capsys.readouterr().err
    assert main([*command[:2], "--labels", "drawn", "--out", "drawn"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"--out drawn holds .*/drawn/\w+\.png, a frame or a label that is read; choose another", told)
    assert main([*command, "--label-every", "2", "--frames", "2:13:1"]) == 2
    assert "was begun with --frames 2:13:2, this command has --frames 2:13:1" in capsys.readouterr().err


def test_the_same_is_checked(clip: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *clip]) == 0
    printed = capsys.readouterr().out
    assert "| walk |      6 |        3 |" in printed
    assert f"| (none) | {100 * HOOD / HEIGHT:32.2f} |" in printed
    assert "the label of frame 000000 is not used" in printed
    save(Path("hood.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
    assert main(["data", "check", *clip]) == 2
    assert "hood.png: all of it is black; expected black, and white where nothing is ever labelled" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("frames", ["7", "1:9:0", "a:b", "1:2:3:4"])
def test_frames_of_another_form_are_refused(clip: list[str], frames: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autolabel", *clip[:3], "--frames", frames, "--out", "out"]) == 2
    assert f"--frames must be START:STOP or START:STOP:STEP, such as 100:400:2, got {frames!r}" in (
        capsys.readouterr().err
    )
    assert not Path("out").exists()


def test_a_hood_of_another_size_is_refused(clip: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("hood.png"), np.full((8, 8), 255, np.uint8))
    assert main(["autolabel", *clip, "--out", "out", "--methods", "motion"]) == 2
    assert "hood.png: the picture of what is never labelled is 8×8 pixels, the frames are 40×24" in (
        capsys.readouterr().err
    )


def test_a_hood_that_is_missing_and_a_run_among_the_labels_are_refused(
    clip: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["autolabel", *clip, "--out", "drawn/out", "--methods", "motion"]) == 2
    assert "drawn" in capsys.readouterr().err
    assert not Path("drawn/out").exists()
    Path("hood.png").unlink()
    assert main(["data", "check", *clip]) == 2
    assert "there is no picture hood.png, which --never names" in capsys.readouterr().err


def test_corrected_labels_go_back_to_the_folder_of_the_labels(
    clip: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Named as ``--labels`` reads them, also where the run has chosen frames, whose numbers count from the first."""
    os.rename("drawn/0.png", "drawn/frame_000000.png")
    autolabel = ["autolabel", *clip, "--methods", "motion", "--out"]
    assert main([*autolabel, "out"]) == 0
    assert main(["export", "out", "--format", "cvat", "--out", "for-cvat"]) == 0
    path = Path("for-cvat", "annotations.xml")
    head, name, tail = path.read_text().partition('name="walk/000008.png" width="40" height="24">')
    mask = f'<mask label="car" rle="0, {HEIGHT * WIDTH}" left="0" top="0" width="40" height="24" z_order="1"/>'
    path.write_text(head + name.replace("walk/000008", "frame_000008") + mask + tail)
    back = ["import", "for-cvat", "--format", "cvat", "--changed-from", "out", "--into"]
    assert main([*back, "drawn"]) == 0
    assert (np.array(Image.open("drawn/000008.png")) == 7).all()
    assert sorted(path.name for path in Path("drawn").iterdir()) == [
        *("000008.png", "10.png", "2.png", "6.png", "classes.yaml", "frame_000000.png")
    ]
    assert main([*autolabel, "again", "--continue", "out"]) == 0
    entries = map(json.loads, Path("again", "manifest.jsonl").read_text().splitlines())
    assert [entry["frame"] for entry in entries if entry["method"] == "keyframe"] == [
        *("000002", "000006", "000008", "000010")
    ]
    # The list of a run says which run it is; another list does not.
    Path("out", "suggest.txt").write_text("walk/000004")
    Path("list.txt").write_text("walk/000004")
    listed = ["import", "for-cvat", "--format", "cvat", "--into", "drawn", "--frames"]
    capsys.readouterr()
    assert main([*listed, "list.txt"]) == 2
    told = capsys.readouterr().err
    assert "drawn does not have the layout 'folder': expected a data set with frames/ and labels/" in told
    assert "or the list of one as --frames DIR/suggest.txt" in told
    assert main([*listed, "out/suggest.txt"]) == 0
    assert capsys.readouterr().out == "walk/000004\n"  # lists of keyframes are made of it
    assert "Imported 1 label into drawn\n" in caplog.text
    assert "next: the command of the run again, with another --out and --continue out\n" in caplog.text
    assert "labelled again, with the calibration as it was." in Path("again/report.md").read_text()
    assert re.search(r"<code>wrp suggest again -n \d</code>", Path("again/report.html").read_text())
    assert "<code>--continue again</code>" in Path("again/report.html").read_text()
    assert Path("drawn/000004.png").is_file()
    # A folder without a label is no folder of labels: a mistyped name fills no other folder.
    assert main([*back, "for-cvat"]) == 2
    assert "for-cvat holds no label" in capsys.readouterr().err


def test_labels_never_replace_the_frames_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        save(tmp_path / "walk" / f"{number}.png", id_picture(number))
    save(tmp_path / "walk" / "labels" / "0.png", id_picture(0))
    (tmp_path / "walk" / "classes.yaml").write_text(CLASSES_YAML)
    assert main(["autolabel", "walk", "--methods", "motion", "--out", "out"]) == 0
    assert main(["export", "out", "--format", "voc", "--out", "for-voc"]) == 0
    before = Path("walk/0.png").read_bytes()
    back = ["import", "for-voc", "--format", "voc", "--changed-from", "out", "--force", "--into"]
    shutil.rmtree("for-voc/SegmentationClass/walk")
    save(Path("for-voc/SegmentationClass/walk/0.png"), np.full((HEIGHT, WIDTH, 3), (70, 80, 90), np.uint8))
    assert main([*back, "walk"]) == 2
    assert "walk does not have the layout 'folder'" in capsys.readouterr().err
    assert Path("walk/0.png").read_bytes() == before
    assert main([*back, "walk/labels"]) == 0
    assert (np.array(Image.open("walk/labels/0.png")) == 7).all()


def test_a_run_keeps_its_classes_when_they_are_named_later(
    clip: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Names that nobody gave are no other classes: they are told, not refused."""
    Path("drawn/classes.yaml").unlink()
    for number in (2, 6, 10):
        write_label(Path("drawn", f"{number}.png"), id_picture(number, range(3)), LABEL_MAP)
    Path("drawn/0.png").unlink()
    autolabel = ["autolabel", *clip[:5], "--methods", "motion", "--out"]
    assert main([*autolabel, "out"]) == 0
    unnamed = (
        "the classes have no names: list them in drawn/classes.yaml, in the form classes: {0: NAME, 3: NAME, 7: NAM"
    )
    assert caplog.text.count(unnamed) == 1
    capsys.readouterr()
    assert main(["data", "check", *clip[:5]]) == 0
    assert capsys.readouterr().out.count(unnamed) == 1

    Path("drawn/classes.yaml").write_text(CLASSES_YAML)
    assert open_run(Path("out")).label_map.names == ("class 0", "class 3", "class 7")
    assert main(["export", "out", "--format", "cvat", "--out", "for-cvat"]) == 0
    assert 'label="class 7"' in Path("for-cvat/annotations.xml").read_text()
    other = "has the classes class 0, class 3, class 7, not road, sky, car: taken for the same, as the ids are"
    back = ["import", "for-cvat", "--format", "cvat", "--into", "drawn"]
    assert main([*back, "--changed-from", "out"]) == 0
    assert f"out {other}" in caplog.text
    Path("list.txt").write_text("walk/000004")
    Path("list.txt").rename("out/suggest.txt")
    assert main([*back, "--frames", "out/suggest.txt"]) == 0
    caplog.clear()
    assert main([*autolabel, "again", "--continue", "out"]) == 0
    assert f"--continue out {other}" in caplog.text
    assert open_run(Path("again")).label_map.names == ("road", "sky", "car")

    Path("drawn/000004.png").rename("000004.png")
    caplog.clear()
    assert main([*autolabel, "out"]) == 0
    assert f"out {other}" in caplog.text
    assert "class 0" in json.loads(Path("out/metrics.json").read_text())["overall"]["motion"]["per_class"]

    Path("000004.png").rename("drawn/000004.png")
    Path("drawn/classes.yaml").write_text(CLASSES_YAML.replace("sky", "tree"))
    for command in (
        [*autolabel, "again", "--continue", "out"],
        [*autolabel, "third", "--continue", "again"],
        [*back, "--changed-from", "again"],
    ):
        capsys.readouterr()
        assert main(command) == 2, command
        assert "again" in (told := capsys.readouterr().err)
        assert "road, tree, car" in told
