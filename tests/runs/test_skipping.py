"""Clips that cannot be used are left out where this is asked for, and labelled once they are mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clips import id_picture, make_folder, make_video, picture, save
from wrp.cli.main import main
from wrp.runs.stage import Runner

COMMAND = ["autolabel", "data", "--methods=copy"]


def cut_video(root: Path) -> None:
    content = (root / "frames/film.mp4").read_bytes()
    (root / "frames/film.mp4").write_bytes(content[: len(content) // 2])


def empty_video(root: Path) -> None:
    (root / "frames/film.mp4").write_bytes(b"")


def no_label(root: Path) -> None:
    (root / "labels/walk/00000.png").unlink()


def lost_label(root: Path) -> None:
    (root / "labels/walk/00000.png").rename(root / "labels/walk/00077.png")


def broken_label(root: Path) -> None:
    content = (root / "labels/walk/00000.png").read_bytes()
    (root / "labels/walk/00000.png").write_bytes(content[:-30])


def empty_frame(root: Path) -> None:
    (root / "frames/walk/00001.png").write_bytes(b"")


def labels() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path("out/labels").rglob("*.png"))}


@pytest.mark.parametrize("harm", [cut_video, empty_video, no_label, lost_label, broken_label, empty_frame])
def test_a_clip_that_cannot_be_used_is_skipped_and_done_when_it_is_mended(
    harm: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "data", {"ride": 4, "walk": 4}, labelled=(0,))
    make_video(root / "frames/film.mp4", [picture(i) for i in range(4)])
    save(root / "labels/film/000000.png", id_picture(0))
    shutil.copytree(root, tmp_path / "whole")
    assert main([*COMMAND, "--out=expected"]) == 0
    harm(root)
    assert main([*COMMAND, "--out=out"]) == 2  # without being asked to
    assert not Path("out").exists()
    name = "film" if "video" in harm.__name__ else "walk"
    for _ in range(2):
        capsys.readouterr()
        assert main([*COMMAND, "--out=out", "--on-error=skip"]) == 3
        assert f"skipped {name}: " in capsys.readouterr().out
        assert sorted(path.name for path in Path("out/labels").iterdir()) == sorted({"ride", "walk", "film"} - {name})
        assert list(json.loads(Path("out/metrics.json").read_text())["skipped"]) == [name]
    assert main(["report", "out"]) == 0
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "whole", root)
    assert main([*COMMAND, "--out=out"]) == 0
    assert {str(path)[len("out") :]: content for path, content in labels().items()} == {
        str(path)[len("expected") :]: path.read_bytes() for path in sorted(Path("expected/labels").rglob("*.png"))
    }
    assert "skipped" not in json.loads(Path("out/metrics.json").read_text())


def test_where_every_clip_is_broken_nothing_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "data", {"walk": 4}, labelled=(0,))
    no_label(root)
    assert main([*COMMAND, "--out=out", "--on-error=skip"]) == 2
    assert "every clip of data has a broken file" in capsys.readouterr().err.replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize("seconds", ['"x"', "null", "NaN", "-1", "1e999", "[]", "true"])
def test_times_that_are_none_are_forgotten(seconds: str, tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text(f'{{"teacher": {{"seconds": {seconds}}}, "x": {{"seconds": 1}}}}')
    runner = Runner(tmp_path)
    runner.add("teacher", 1.5)
    assert runner.seconds == {"teacher": 1.5, "x": 1}
